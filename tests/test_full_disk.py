"""A full disk: the stage says what it could not write, and nothing hides that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.app.run_log import keep_record, read_records
from pipeline.core.config import StageConfig
from pipeline.core.contracts import StageReport
from pipeline.core.progress import Progress
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command
from tests.helpers.small_disk import fill, small_disk

__all__ = ["small_disk"]


def test_the_message_of_the_stage_wins_over_that_of_the_run_s_line(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Workspace(small_disk / "data").open(source="dalleblog").root

    def entry_point(config: StageConfig, progress: Progress) -> StageReport:
        fill(small_disk)
        write_bytes(root / "dedupe" / "kept.parquet", bytes(1000))
        raise AssertionError("the disk is not full")

    monkeypatch.setattr("pipeline.core.stage.load_entry_point", lambda _: entry_point)
    result = run_command(["dedupe", "--workspace", str(root), "--json"])
    assert result.exit_code == 1
    error = json.loads(result.stdout.splitlines()[-1])["error"]
    assert error["type"] == "StorageError"
    assert "disk is full" in error["message"]
    assert "kept.parquet" in error["message"]


def test_progress_that_can_t_be_noted_does_not_end_a_stage(small_disk: Path) -> None:
    root = Workspace(small_disk / "data").open(source="dalleblog").root
    with keep_record(root, "pipeline dedupe") as record, record.stage("dedupe") as stage:
        filling = fill(small_disk)
        for done in range(3):
            record.write_state(**stage.place(), done=done, notes={"note": "x" * 5000})
        filling.unlink()
    assert [line["outcome"] for line in read_records(root)] == ["done"]
