"""What was run in a workspace, and what runs now. Floor 5.

`runs.jsonl` has a line a run, appended when it ends, however it ends; times of day stand there for a
person and decide nothing. `.running` says how far the present run is: it is locked by the process that
works, so that nobody takes what a killed run left for a living one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.contracts import StageReport
from pipeline.errors import ContractError, PipelineError
from pipeline.progress import Progress
from pipeline.storage import MANIFEST_NAME, input_digest, storage_error
from pipeline.workspace import lock_workspace

RUNS_NAME = "runs.jsonl"
RUNNING_NAME = ".running"
_TELL_EVERY_S = 0.5

Clock = Callable[[], float]
Record = Mapping[str, Any]


def time_of(clock: Clock) -> str:
    """The time of day in UTC, ISO 8601 with seconds."""
    moment = dt.datetime.fromtimestamp(clock(), dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- A run while it goes on ----------------------------------------------------------------------


@contextlib.contextmanager
def keep_record(root: Path, command: str, *, clock: Clock = time.time) -> Iterator[RunRecord]:
    """Hold the workspace, tell others how far the run is, and leave a line of it, however it ends.

    Raises LockedError, and touches nothing, where another process holds the workspace.
    """
    with lock_workspace(root, command), _hold_running(root) as running:
        _record_killed(root, running)
        record = RunRecord(root=root, command=command, running=running, started=time_of(clock))
        try:
            record.tell()
            yield record
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            _append(root, record.as_dict())
            running.truncate(0)


@dataclass(kw_only=True)
class RunRecord:
    """What this run did so far; `outcome` is the run's own word at its end."""

    root: Path
    command: str
    running: IO[str]
    started: str
    outcome: str = "done"
    stages: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    _begun_s: float = field(default_factory=time.monotonic)
    _cpu_s: float = field(default_factory=lambda: cpu_seconds())
    _told_s: float = 0.0

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[StageRun]:
        """Note a stage: its report, or why it failed."""
        run = StageRun(record=self, name=name)
        self.tell(stage=name)
        try:
            yield run
        except BaseException as error:
            self.stages.append(run.entry() | _describe_error(error))
            raise
        self.stages.append(run.entry())

    def pass_over(self, name: str, why: str) -> None:
        """Note a stage that was not called."""
        self.stages.append({"stage": name, "outcome": "unchanged", "skipped": why})

    def tell(self, **state: Any) -> None:
        """Write what runs now into `.running`, over what stood there, in one call."""
        facts = {"command": self.command, "started": self.started, **_process(), **state}
        data = json.dumps(facts, ensure_ascii=False).encode() + b"\n"
        descriptor = self.running.fileno()
        size = os.fstat(descriptor).st_size
        # Blanks over the rest of a longer line: a reader always finds one whole line.
        os.pwrite(descriptor, data.ljust(size), 0)
        self._told_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last word on progress is old enough for another one."""
        return time.monotonic() - self._told_s >= _TELL_EVERY_S

    def fail(self, error: BaseException) -> None:
        """Note what ended the run."""
        facts = _describe_error(error)
        self.outcome = facts["outcome"]
        self.error = facts.get("error")

    def as_dict(self) -> dict[str, Any]:
        """The line of `runs.jsonl`."""
        line = {
            "command": self.command,
            "started": self.started,
            "seconds": round(time.monotonic() - self._begun_s, 3),
            "cpu_seconds": round(cpu_seconds() - self._cpu_s, 3),
            "outcome": self.outcome,
            "stages": self.stages,
        }
        return line if self.error is None else line | {"error": self.error}


@dataclass(kw_only=True)
class StageRun:
    """One stage of a run."""

    record: RunRecord
    name: str
    report: StageReport | None = None
    begun_s: float = field(default_factory=time.monotonic)
    cpu_s: float = field(default_factory=lambda: cpu_seconds())

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        """Be told of progress (a `Progress`)."""
        if self.record.is_due():
            self.record.tell(
                stage=self.name,
                done=done,
                total=total,
                notes=dict(notes or {}),
                seconds=round(time.monotonic() - self.begun_s, 1),
            )

    def entry(self) -> dict[str, Any]:
        """The stage's part of the line: what it was made from, what it made, what it counted."""
        line: dict[str, Any] = {
            "stage": self.name,
            "seconds": round(time.monotonic() - self.begun_s, 3),
            "cpu_seconds": round(cpu_seconds() - self.cpu_s, 3),
        }
        if self.report is None:
            return line
        inputs, outputs = _inputs_and_outputs(self.record.root, self.report)
        return line | {
            "outcome": self.report.outcome,
            "counts": dict(self.report.counts),
            "inputs": inputs,
            "outputs": outputs,
        }


def tee(*listeners: Progress) -> Progress:
    """Tell several listeners of one progress."""

    def tell(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        for listener in listeners:
            listener(done, total, notes)

    return tell


def cpu_seconds() -> float:
    """Processor time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _inputs_and_outputs(root: Path, report: StageReport) -> tuple[dict[str, str], dict[str, str]]:
    """Digests by folder of what the stage read and of what it wrote, as its manifests name them."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for output in map(Path, report.outputs):
        try:
            outputs[output.relative_to(root).as_posix()] = input_digest(output)
            inputs |= json.loads((output / MANIFEST_NAME).read_bytes())["inputs"]
        except (ValueError, OSError, ContractError, KeyError):
            continue  # a file such as report.html, or something outside the workspace
    return inputs, outputs


def _describe_error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return {"outcome": "interrupted"}
    known = (
        storage_error(error, error.filename or "a file") if isinstance(error, OSError) else error
    )
    message = str(known) if isinstance(known, PipelineError) else f"{type(known).__name__}: {known}"
    return {"outcome": "failed", "error": {"type": type(known).__name__, "message": message}}


def _process() -> dict[str, Any]:
    return {"process": os.getpid(), "host": socket.gethostname()}


@contextlib.contextmanager
def _hold_running(root: Path) -> Iterator[IO[str]]:
    # Not to append: Linux would then write at the end whatever place is named.
    with os.fdopen(os.open(root / RUNNING_NAME, os.O_RDWR | os.O_CREAT, 0o666), "r+") as file:
        # Whoever asks whether we live holds it for a moment: wait.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _record_killed(root: Path, running: IO[str]) -> None:
    """Give a run that was killed its line: it had no time to write one."""
    left = _parse(_read(running))
    if left is not None:
        facts = {name: left[name] for name in ("command", "started") if name in left}
        stage = {"stage": left["stage"], "outcome": "killed"} if "stage" in left else None
        _append(root, facts | {"outcome": "killed", "stages": [stage] if stage else []})
    running.truncate(0)


def _append(root: Path, record: Record) -> None:
    """Add a line; a torn one before it, of a run that was killed while it wrote, is closed first."""
    with (root / RUNS_NAME).open("ab+") as file:
        size = file.seek(0, os.SEEK_END)
        torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
        line = json.dumps(record, ensure_ascii=False, default=str).encode() + b"\n"
        file.write(b"\n" * torn + line)
        file.flush()
        os.fsync(file.fileno())


# --- What others see -----------------------------------------------------------------------------


def read_records(root: Path) -> list[Record]:
    """All runs of the workspace, the oldest first; torn lines are left out."""
    try:
        lines = (root / RUNS_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    return [record for line in lines if (record := _parse(line)) is not None]


def read_running(root: Path) -> tuple[Record | None, bool]:
    """What the run that goes on says of itself (or one that was killed), and whether it lives."""
    try:
        with (root / RUNNING_NAME).open() as file:
            lives = _is_locked(file)
            return _parse(_read(file)), lives
    except FileNotFoundError:
        return None, False


def _is_locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(file: IO[str]) -> str:
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")


def _parse(line: str) -> Record | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
