"""`pipeline status`: what stands in a workspace, what runs there, what went wrong last. Floor 5.

Reads manifests, `runs.jsonl` and `.running`; waits for no lock.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.config import StageConfig, option
from pipeline.console import describe_progress
from pipeline.contracts import StageReport
from pipeline.inventory import Folder, find_folders
from pipeline.records import Record, read_records, read_running
from pipeline.road import Call
from pipeline.stages import STAGES
from pipeline.workspace import Workspace

State = Literal["fresh", "stale", "running", "failed", "unfinished", "not run"]
_ENDED_BADLY = ("failed", "killed", "interrupted")


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StageConfig):
    """Which workspace to show."""

    watch: bool = option(False, "Show it again and again, until Ctrl-C.")
    every_s: float = option(2.0, "With --watch: seconds between.", low=0.1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A folder of a stage, or a stage that has none; `bytes` are those of its manifest's files."""

    stage: str
    folder: str
    state: State
    why: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    last_run: str | None = None
    seconds: float | None = None


def show_status(config: StatusConfig, call: Call) -> StageReport:
    """Print a table of the workspace; with `watch` until interrupted."""
    root = Workspace(config.workspace).open().root
    if not config.watch:
        return _show_once(root, call)
    try:
        with call.screen.redraw() as draw:
            while True:
                report = draw(lambda: _show_once(root, call))
                call.screen.emit(report.as_dict())
                time.sleep(config.every_s)
    except KeyboardInterrupt:
        return _show_once(root, call)


def _show_once(root: Path, call: Call) -> StageReport:
    rows = find_rows(root)
    columns = ("stage", "folder", "state", "why", "counts", "size", "last run")
    call.screen.table(str(root), columns, [_cells(row) for row in rows])
    return StageReport(
        stage="status",
        outcome="done",
        counts={"folders": sum(row.state != "not run" for row in rows)},
        details={row.folder or row.stage: dataclasses.asdict(row) for row in rows},
    )


def find_rows(root: Path) -> list[Row]:
    """A row a folder, in the order of the road; a stage without a folder has one row."""
    folders = find_folders(root)
    last = _last_runs(read_records(root))
    running, lives = read_running(root)
    rows: list[Row] = []
    for name, stage in STAGES.items():
        mine = [folder for folder in folders if folder.contract == stage.contract]
        now = running if running and running.get("stage") == name else None
        some: list[Folder | None] = [*mine] or [None]
        rows += [_row(name, folder, last.get(name), (now, lives)) for folder in some]
    return rows


def _row(
    name: str, folder: Folder | None, last: Record | None, now: tuple[Record | None, bool]
) -> Row:
    state, why = _state(folder, last, now)
    manifest = folder.manifest if folder else None
    return Row(
        stage=name,
        folder=folder.name if folder else "",
        state=state,
        why=why,
        counts={k: v for k, v in manifest.counts.items() if v} if manifest else {},
        bytes=sum(entry.bytes for entry in manifest.files) if manifest else 0,
        last_run=last.get("started") if last else None,
        seconds=last.get("seconds") if last else None,
    )


def _state(
    folder: Folder | None, last: Record | None, now: tuple[Record | None, bool]
) -> tuple[State, str]:
    running, lives = now
    if running is not None and lives:
        return "running", _describe_running(running)
    if running is not None:
        return "failed", "killed: the next run goes on"
    if last is not None and last.get("outcome") in _ENDED_BADLY:
        error = last.get("error") or {}
        return "failed", str(error.get("message") or last["outcome"])
    if folder is None:
        return ("fresh", "") if last is not None else ("not run", "")
    if folder.manifest is None:
        return "unfinished", str(folder.problem)
    if folder.stale:
        return "stale", f"{', '.join(folder.stale)} changed"
    return "fresh", f"{', '.join(folder.outgrown)} has grown since" if folder.outgrown else ""


def _describe_running(running: Record) -> str:
    if "done" not in running:
        return f"process {running.get('process')}, begun {running.get('started')}"
    seconds = float(running.get("seconds") or 0.0)
    done, total = int(running["done"]), running.get("total")
    rate = done / seconds if seconds else 0.0
    return describe_progress(done, total, rate, running.get("notes"))


def _last_runs(records: list[Record]) -> dict[str, Record]:
    """The latest entry of each stage, with when its run began."""
    found: dict[str, Record] = {}
    for record in records:
        for entry in _entries(record):
            found[entry["stage"]] = {"started": record.get("started"), **entry}
    return found


def _entries(record: Record) -> Iterator[dict[str, Any]]:
    """What a run did at each stage; a stage that it passed over is not among them."""
    for entry in record.get("stages", ()):
        if isinstance(entry, dict) and entry.get("stage") in STAGES and not entry.get("skipped"):
            yield entry


def _cells(row: Row) -> tuple[str, ...]:
    counts = ", ".join(f"{name} {number:,}" for name, number in row.counts.items())
    size = f"{row.bytes / 1e6:,.1f} MB" if row.bytes else ""
    took = f" ({row.seconds:,.1f} s)" if row.seconds is not None else ""
    last = f"{row.last_run}{took}" if row.last_run else ""
    return row.stage, row.folder, row.state, row.why, counts, size, last
