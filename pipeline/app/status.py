"""`pipeline status`: the contents of a workspace, running commands, and the last failures.

Each folder's state comes from its own manifest; a run that ended badly is shown at the folder that it left
unfinished. Reads manifests, `runs.jsonl` and `.active/`; waits for no lock.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.app.progress_line import describe_progress
from pipeline.app.run_all import Call
from pipeline.app.run_lines import Record
from pipeline.app.run_log import Active, read_active, read_records
from pipeline.app.stages import STAGES
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import StageReport
from pipeline.core.inventory import Folder, find_folders, find_outdated
from pipeline.core.uses import find_uses
from pipeline.core.workspace import Workspace

State = Literal["fresh", "stale", "running", "failed", "unfinished", "not run"]
_ENDED_BADLY = ("failed", "killed", "interrupted")


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StageConfig):
    """The workspace to show, and how often."""

    watch: bool = option(False, "Refresh until Ctrl-C.")
    every_s: float = option(2.0, "With --watch: seconds between refreshes.", low=0.1)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A folder of a stage, or a stage without one; `bytes` is the size of the files in its manifest.

    `used_by` are the folders that were made with this codec, tokenizer or codes.
    """

    stage: str
    folder: str
    state: State
    why: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0
    last_run: str | None = None
    seconds: float | None = None
    used_by: tuple[str, ...] = ()


def show_status(config: StatusConfig, call: Call) -> StageReport:
    """Print a table of the workspace; with `watch`, until interrupted."""
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
    columns = ("stage", "folder", "state", "why", "used by", "counts", "size", "last run")
    call.screen.table(str(root), columns, [_cells(row) for row in rows])
    return StageReport(
        stage="status",
        outcome="done",
        counts={"folders": sum(row.state != "not run" for row in rows)},
        details={row.folder or row.stage: dataclasses.asdict(row) for row in rows},
    )


def find_rows(root: Path) -> list[Row]:
    """One row per folder, in the order of the pipeline; a stage without a folder has one row."""
    folders = find_folders(root)
    ended = _last_runs(read_records(root))
    active = read_active(root)
    outdated = find_outdated(folders)
    uses = {use.folder.name: use.used_by for use in find_uses(root)}
    rows: list[Row] = []
    for name, stage in STAGES.items():
        mine = [folder for folder in folders if folder.contract == stage.contract_name]
        facts = _StageFacts(
            name=name,
            ended=ended.get(name, []),
            active=[each for each in active if each.facts.get("stage") == name],
        )
        for folder in mine:
            row = _row(facts, folder, outdated.get(folder.name, ()))
            rows.append(dataclasses.replace(row, used_by=uses.get(folder.name, ())))
        if attempt := _lone_attempt(facts, mine):
            rows.append(attempt)
    return rows


@dataclass(frozen=True, kw_only=True)
class _StageFacts:
    """A stage's runs: ended ones, oldest first, and those that are active or were killed."""

    name: str
    ended: list[Record]
    active: list[Active]

    def active_at(self, folder: str) -> Active | None:
        """The run that is writing a folder, or was killed while writing it."""
        return next((a for a in self.active if _writes(a.facts, folder)), None)

    def last_at(self, folder: str) -> Record | None:
        """The last run that wrote a folder, or tried to."""
        return next((e for e in reversed(self.ended) if _writes(e, folder)), None)


def _writes(run: Record, folder: str) -> bool:
    """Whether a run wrote `folder`: by its outputs, or else by the folders that it held exclusively."""
    if outputs := run.get("outputs"):
        return folder in outputs
    held = run.get("writes", ())
    return any(name == folder or folder.startswith((f"{name}/", f"{name}-")) for name in held)


def _row(facts: _StageFacts, folder: Folder, outdated: tuple[str, ...]) -> Row:
    state, why = _state(facts, folder, outdated)
    manifest, last = folder.manifest, facts.last_at(folder.name)
    return Row(
        stage=facts.name,
        folder=folder.name,
        state=state,
        why=why,
        counts={k: v for k, v in manifest.counts.items() if v} if manifest else {},
        bytes=sum(entry.bytes for entry in manifest.files) if manifest else 0,
        last_run=last.get("started") if last else None,
        seconds=last.get("seconds") if last else None,
    )


def _state(facts: _StageFacts, folder: Folder, outdated: tuple[str, ...]) -> tuple[State, str]:
    active = facts.active_at(folder.name)
    if active is not None and active.is_running and folder.manifest is None:
        return "running", _describe_running(active.facts)
    if folder.manifest is None:
        return _state_of_unfinished(facts, folder, active)
    if outdated:
        return "stale", f"{', '.join(outdated)} changed"
    return "fresh", f"{', '.join(folder.outgrown)} has grown since" if folder.outgrown else ""


def _state_of_unfinished(
    facts: _StageFacts, folder: Folder, active: Active | None
) -> tuple[State, str]:
    if active is not None:
        return "failed", "killed: the next run resumes it"
    last = facts.last_at(folder.name)
    if last is not None and last.get("outcome") in _ENDED_BADLY:
        return "failed", _describe_end(last)
    return "unfinished", str(folder.problem)


def _lone_attempt(facts: _StageFacts, folders: list[Folder]) -> Row | None:
    """A row for a stage that has no folder, or whose last attempt failed and left none."""
    last = facts.ended[-1] if facts.ended else None
    unfinished = [folder for folder in folders if folder.manifest is None]
    running = [
        a for a in facts.active if not any(_writes(a.facts, folder.name) for folder in unfinished)
    ]
    if running:
        state: State = "running" if running[0].is_running else "failed"
        why = (
            _describe_running(running[0].facts)
            if running[0].is_running
            else "killed: the next run resumes it"
        )
    elif last is not None and last.get("outcome") in _ENDED_BADLY:
        if any(_writes(last, folder.name) for folder in unfinished):
            return None
        state, why = "failed", _describe_end(last)
    elif folders:
        return None
    else:
        state, why = ("fresh", "") if last is not None else ("not run", "")
    seconds = last.get("seconds") if last else None
    began = last.get("started") if last else None
    return Row(stage=facts.name, folder="", state=state, why=why, last_run=began, seconds=seconds)


def _describe_end(run: Record) -> str:
    error = run.get("error") or {}
    return str(error.get("message") or run["outcome"])


def _describe_running(running: Record) -> str:
    if "done" not in running:
        return f"process {running.get('process')}, started {running.get('started')}"
    seconds = float(running.get("seconds") or 0.0)
    done, total = int(running["done"]), running.get("total")
    rate = done / seconds if seconds else 0.0
    return describe_progress(done, total, rate, running.get("notes"))


def _last_runs(records: list[Record]) -> dict[str, list[Record]]:
    """The entries of each stage, oldest first, each with the start of its run."""
    found: dict[str, list[Record]] = {}
    for record in records:
        for entry in _entries(record):
            found.setdefault(entry["stage"], []).append({"started": record.get("started"), **entry})
    return found


def _entries(record: Record) -> Iterator[dict[str, Any]]:
    """The stages of a run, without skipped ones and those with usage errors."""
    for entry in record.get("stages", ()):
        if not isinstance(entry, dict) or entry.get("stage") not in STAGES or entry.get("skipped"):
            continue
        if (entry.get("error") or {}).get("type") != "ConfigError":
            yield entry


def _cells(row: Row) -> tuple[str, ...]:
    counts = ", ".join(f"{name} {number:,}" for name, number in row.counts.items())
    size = f"{row.bytes / 1e6:,.1f} MB" if row.bytes else ""
    took = f" ({row.seconds:,.1f} s)" if row.seconds is not None else ""
    last = f"{row.last_run}{took}" if row.last_run else ""
    used = ", ".join(row.used_by)
    return row.stage, row.folder, row.state, row.why, used, counts, size, last
