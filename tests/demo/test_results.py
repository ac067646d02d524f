"""The numbers on the first lines of a demo's report."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline.core.contracts import MEASUREMENTS, Outcome, StageReport
from pipeline.core.workspace import Workspace
from pipeline.demo.results import save_measurements

STAGES = ("scrape", "dedupe", "encode")


def save(workspace: Workspace, outcome: Outcome, seconds: float) -> bytes:
    reports = {n: StageReport(stage=n, outcome=outcome, seconds=seconds) for n in STAGES}
    save_measurements(workspace, reports, [("7%", "of all")], record_name="record.json")
    return (workspace.root / MEASUREMENTS).read_bytes()


def test_a_run_in_which_nothing_is_done_keeps_all_numbers_in_their_order(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "data").open(source="folder")
    first = save(workspace, "done", 5.0)
    tiles = {tile["label"]: tile["value"] for tile in json.loads(first)}
    assert list(tiles)[:-1] == ["of all", "in the stages", *STAGES]
    assert [tiles[name] for name in ("of all", "in the stages", *STAGES)] == [
        *("7%", "15 s"),
        *("5 s", "5 s", "5 s"),
    ]
    assert save(workspace, "unchanged", 0.1) == first
