"""Which folders of a workspace have a contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.inventory import find_folders
from pipeline.core.ownership import mark_unfinished


def names_of(root: Path) -> list[str]:
    return [folder.name for folder in find_folders(root)]


def test_runs_alone_may_have_names_of_two_levels(tmp_path: Path) -> None:
    mark_unfinished(tmp_path / "runs/taming/12L_64HD", "run")
    mark_unfinished(tmp_path / "runs/taming/24L_64HD", "run")
    mark_unfinished(tmp_path / "codes/small-aaa/inner", "codes")
    assert names_of(tmp_path) == ["codes/small-aaa", "runs/taming/12L_64HD", "runs/taming/24L_64HD"]


@pytest.mark.parametrize("file", ["manifest.json", "unfinished.json", "plan.json"])
def test_any_mark_shows_a_run_of_two_levels(tmp_path: Path, file: str) -> None:
    run = tmp_path / "runs/taming/12L_64HD"
    run.mkdir(parents=True)
    (run / file).write_text("{}")
    assert names_of(tmp_path) == ["runs/taming/12L_64HD"]


def test_checkpoints_and_samples_make_no_second_level(tmp_path: Path) -> None:
    for name in ("checkpoints/step-000010/checkpoint.json", "samples/step-000010.png"):
        path = tmp_path / "runs/plain" / name
        path.parent.mkdir(parents=True)
        path.write_text("{}")
    assert names_of(tmp_path) == ["runs/plain"]
