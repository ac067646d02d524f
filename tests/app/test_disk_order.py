"""A line of runs.jsonl is on the disk before the command ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.app.run_log import keep_record
from pipeline.core.workspace import Workspace
from tests.helpers.disk_order import DiskOrder


def test_the_line_of_a_run_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Workspace(tmp_path / "data").open(source="x").root
    order = DiskOrder(monkeypatch)
    with keep_record(root, "pipeline test") as record:
        record.outcome = "done"
        assert "sync runs.jsonl" not in order.events
    assert order.of("runs.jsonl") == ["sync runs.jsonl"]
    assert (root / "runs.jsonl").read_text().endswith("}\n")
