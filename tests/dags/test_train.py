"""`dalleblog_train` alone, with a command that only says what it was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("airflow")

from tests.dags.weeks import run_dag

COMMAND = """\
#!/bin/sh
[ "$1" = --version ] && echo dalle-pipeline 0.1.0 && exit
echo "$@" >> {calls}
echo '{{"stage": "x", "outcome": "done", "counts": {{}}, "outputs": [], "details": {{}}}}'
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: None) -> Path:
    command = tmp_path / "pipeline"
    command.write_text(COMMAND.format(calls=tmp_path / "calls"))
    command.chmod(0o755)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("DALLE_PIPELINE_COMMAND", str(command))
    monkeypatch.setenv("DALLE_PIPELINE_WORKSPACE", str(tmp_path / "a"))
    return tmp_path


def make_events(*extras: dict[str, Any]) -> list[int]:
    """Events of the shards in Airflow's database; returns their numbers."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        asset = session.scalar(select(AssetModel).where(AssetModel.name == "dalleblog_shards"))
        if asset is None:
            asset = AssetModel(name="dalleblog_shards", uri="dalleblog_shards", group="asset")
            session.add(asset)
            session.flush()
        events = [AssetEvent(asset_id=asset.id, extra=extra) for extra in extras]
        session.add_all(events)
        session.flush()
        return [event.id for event in events]


def trained(place: Path) -> list[str]:
    """The workspaces that were trained in, in this order."""
    lines = (place / "calls").read_text().splitlines()
    words = [line.split() for line in lines if line.startswith("train ")]
    return [Path(line[line.index("--workspace") + 1]).name for line in words]


def test_the_news_of_every_workspace_is_trained_on(place: Path) -> None:
    """Two workspaces had news while a training ran: the next run has all of their events."""
    extras = [{"workspace": str(place / name), "fingerprint": f"of {name}"} for name in "bab"]
    state, states = run_dag("dalleblog_train", {}, make_events(*extras))
    assert (state, states["check"], states["train"]) == (
        "success",
        ["success"] * 2,
        ["success"] * 2,
    )
    assert sorted(trained(place)) == ["a", "b"]


def test_one_workspace_that_is_refused_keeps_no_other_from_its_training(place: Path) -> None:
    extras = [{"workspace": "/etc"}, {"workspace": str(place / "b")}]
    state, states = run_dag("dalleblog_train", {}, make_events(*extras))
    assert (state, sorted(states["train"])) == ("failed", ["success", "upstream_failed"])
    assert trained(place) == ["b"]


def test_a_run_by_hand_trains_in_the_workspace_of_the_conf(place: Path) -> None:
    assert run_dag("dalleblog_train", {"workspace": str(place / "b")}, [])[0] == "success"
    assert run_dag("dalleblog_train", {}, [])[0] == "success"
    assert trained(place) == ["b", "a"]
