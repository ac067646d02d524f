"""Where a task may work and with what, whoever asks for it."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("airflow")

from airflow.sdk.exceptions import AirflowFailException

from dalle_pipeline_airflow import alerts
from dalle_pipeline_airflow.assets import SHARDS
from dalle_pipeline_airflow.checks import check_begin
from dalle_pipeline_airflow.settings import choices, place_of, shards_event
from tests.dags.calls import context, operator, report_line, sent, write_command


def test_a_workspace_lies_below_the_allowed_folders_whoever_names_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside = place.parent / "other"
    assert place_of(context()).workspace == place
    assert place_of(context(workspace=str(beside))).workspace == beside
    assert place_of(context(event={"workspace": str(beside)})).workspace == beside
    (place.parent / "link").symlink_to("/etc")
    for bad in ("/etc", f"{place.parent}/link/x", f"{place.parent}/../../x", "relative", "/a\0b"):
        for given in (context(workspace=bad), context(event={"workspace": bad})):
            with pytest.raises(AirflowFailException, match=r"workspace"):
                place_of(given)
    with pytest.raises(AirflowFailException, match="config /etc/passwd is not below"):
        place_of(context(config="/etc/passwd"))
    monkeypatch.setenv("DALLE_PIPELINE_ROOTS", f"{tmp_path}/a:{tmp_path}/b")
    assert place_of(context(workspace=f"{tmp_path}/b/data")).workspace == tmp_path / "b" / "data"
    with pytest.raises(AirflowFailException, match="not below"):
        place_of(context(workspace=str(beside)))


def test_without_a_workspace_there_is_a_sentence(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DALLE_PIPELINE_WORKSPACE")
    with pytest.raises(AirflowFailException, match="No workspace: set DALLE_PIPELINE_WORKSPACE"):
        place_of(context())
    with pytest.raises(AirflowFailException, match="not below"):
        place_of(context(workspace="/srv/data"))


def test_the_environment_comes_before_the_variable(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_DALLE_PIPELINE_COMMAND", "/from/the/variable")
    assert place_of(context()).command == os.environ["DALLE_PIPELINE_COMMAND"]
    monkeypatch.delenv("DALLE_PIPELINE_COMMAND")
    assert place_of(context()).command == "/from/the/variable"


def test_an_events_extra_is_never_executed(place: Path, tmp_path: Path) -> None:
    write_command(tmp_path, report_line(outcome="done"))
    evil = {"command": f"touch {tmp_path}/evil", "alert_command": f"touch {tmp_path}/evil"}
    operator("train").execute(context(event=evil))
    alerts.send_alert(context(event=evil), "failed", "a sentence")
    assert not (tmp_path / "evil").exists()
    assert sent(tmp_path) == ["a sentence"]


def test_a_param_that_is_null_comes_from_the_setting_then_from_the_default(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    null: dict[str, Any] = {"mode": None, "parts": None, "run_name": None, "keep_runs": None}
    defaults = {"mode": "refresh", "parts": 4, "run_name": "dalle", "keep_runs": None}
    assert choices(context(**null)).items() >= defaults.items()
    monkeypatch.setenv("DALLE_PIPELINE_KEEP_RUNS", "3")
    monkeypatch.setenv("DALLE_PIPELINE_MODE", "update")
    assert choices(context(**null)).items() >= {"mode": "update", "keep_runs": 3}.items()
    assert choices(context(**{**null, "mode": "continue"}))["mode"] == "continue"
    for bad in ("delete", "3", "{"):
        monkeypatch.setenv("DALLE_PIPELINE_MODE", bad)
        with pytest.raises(AirflowFailException, match="DALLE_PIPELINE_MODE="):
            choices(context(**null))


def test_unknown_keys_and_backfills_are_refused(place: Path) -> None:
    with pytest.raises(AirflowFailException, match="alert_command, command, which a_dag has no"):
        place_of(context(conf={"command": "rm", "alert_command": "rm", "limit": 1}))
    here = context()
    here["dag_run"].run_type = "backfill"
    with pytest.raises(AirflowFailException, match="backfill"):
        place_of(here)


def test_another_version_of_the_command_is_refused(place: Path, tmp_path: Path) -> None:
    write_command(tmp_path, "echo dalle-pipeline 9.9.9")
    with pytest.raises(AirflowFailException, match=r"is version 9\.9\.9, these DAGs need"):
        check_begin(context())


def test_of_several_workspaces_each_task_is_there_for_one(place: Path) -> None:
    """Events that waited together: the latest of each workspace counts, none is lost."""
    said = [("b", 1), ("a", 1), ("b", 2)]
    extras = [{"workspace": f"{place.parent}/{name}", "rows": rows} for name, rows in said]
    here = context()
    here["triggering_asset_events"] = {
        SHARDS: [SimpleNamespace(extra=extra) for extra in [*extras, None]]
    }
    found = []
    for here["ti"].map_index in (0, 1):
        found.append((place_of(here).workspace.name, shards_event(here)["rows"]))
    assert found == [("a", 1), ("b", 2)]
