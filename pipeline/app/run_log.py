"""Records of the runs in a workspace, and of the commands that run now.

`runs.jsonl` gets one line per run, appended at its end, however it ends; its times of day are only for
people. Each running command has a file in `.active/` with its progress. The process holds a lock on that
file, so that the file of a killed run is not mistaken for a running one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.app.run_lines import ActiveFacts, Record, RunLine, parse_line
from pipeline.core.contracts import Manifest, StageReport
from pipeline.core.errors import ContractError, PipelineError
from pipeline.core.locks import WHOLE_WORKSPACE, hold_folders
from pipeline.core.parsing import parse_json_file, read_small_file
from pipeline.core.progress import Progress
from pipeline.core.storage import (
    MANIFEST_NAME,
    encode_json,
    input_digest,
    known_error,
    storage_error,
)

RUNS_NAME = "runs.jsonl"
ACTIVE_NAME = ".active"
_WRITE_EVERY_S = 0.5
_MAX_ACTIVE_BYTES = 1 << 20
# The starter of a command may identify itself, so that a scheduler can find its own runs.
_BY_VARIABLE, _LONGEST_BY = "PIPELINE_RUN_BY", 500

logger = logging.getLogger(__name__)

Clock = Callable[[], float]


def time_of(clock: Clock) -> str:
    """The time of day in UTC, ISO 8601 with seconds."""
    moment = dt.datetime.fromtimestamp(clock(), dt.UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


# --- During a run --------------------------------------------------------------------------------


@contextlib.contextmanager
def keep_record(
    root: Path,
    command: str,
    *,
    writes: Iterable[str] = (),
    whole: bool = False,
    clock: Clock = time.time,
) -> Iterator[RunRecord]:
    """Record a command in the workspace while it runs, and append its line, however it ends.

    `writes` are folders that it holds exclusively until its end; with `whole` it holds the entire workspace.
    Raises LockedError, and leaves nothing behind, if another process holds a folder that it needs.
    """
    with _be_active(
        root, command, {*writes, WHOLE_WORKSPACE} if whole else {*writes}, clock
    ) as record:
        try:
            record.write_state()
            yield record
        except BaseException as error:
            record.fail(error)
            raise
        finally:
            _append(root, record.as_dict())


@contextlib.contextmanager
def hold_workspace(root: Path, command: str, *, clock: Clock = time.time) -> Iterator[None]:
    """Keep others from working in the workspace, for a command that only reads it and leaves no line.

    Raises LockedError if another process works in it.
    """
    with _be_active(root, command, {WHOLE_WORKSPACE}, clock) as record:
        record.write_state()
        yield


@contextlib.contextmanager
def _be_active(root: Path, command: str, writes: set[str], clock: Clock) -> Iterator[RunRecord]:
    """Hold the folders, and say so in `.active/`."""
    with hold_folders(
        root,
        writes=writes,
        reads={WHOLE_WORKSPACE},
        describe=lambda folder: describe_holder(root, folder),
    ):
        _record_killed(root)
        with _hold_active(root, command) as active:
            yield RunRecord(
                root=root,
                command=command,
                active=active,
                started=time_of(clock),
                writes=sorted(writes),
            )


@dataclass(kw_only=True)
class RunRecord:
    """What this run has done so far; `outcome` is set by the command at its end."""

    root: Path
    command: str
    active: int
    started: str
    writes: list[str] = field(default_factory=list)
    by: str = field(default_factory=lambda: os.environ.get(_BY_VARIABLE, "")[:_LONGEST_BY])
    outcome: str = "done"
    stages: list[dict[str, Any]] = field(default_factory=list)
    error: dict[str, str] | None = None
    _begun_s: float = field(default_factory=time.monotonic)
    _cpu_s: float = field(default_factory=lambda: cpu_seconds())
    _written_s: float = 0.0

    @contextlib.contextmanager
    def stage(
        self, name: str, *, writes: Sequence[str] = (), reads: Sequence[str] = ()
    ) -> Iterator[StageRun]:
        """Hold the folders that a stage writes and reads, and record its report or its error.

        Raises LockedError if another process holds one of them.
        """
        run = StageRun(record=self, name=name, writes=tuple(writes), reads=tuple(reads))
        try:
            with hold_folders(
                self.root, writes=writes, reads=reads, describe=self._describe_holder
            ):
                self.write_state(**run.place())
                yield run
        except BaseException as error:
            self.stages.append(run.entry() | _describe_error(error))
            raise
        self.stages.append(run.entry())

    def _describe_holder(self, folder: str) -> str:
        return describe_holder(self.root, folder)

    def note_skipped(self, name: str, why: str) -> None:
        """Record a skipped stage."""
        self.stages.append({"stage": name, "outcome": "unchanged", "skipped": why})

    def write_state(self, **state: Any) -> None:
        """Overwrite the command's file in `.active/` with the current state, in a single write."""
        facts = {"command": self.command, "started": self.started, **_process(), **state}
        facts["writes"] = sorted({*self.writes, *state.get("writes", ())})
        data = encode_json(facts)
        with contextlib.suppress(OSError):  # a full disk: the stage itself reports it
            size = os.fstat(self.active).st_size
            # Pad with blanks over the rest of a longer line: a reader always finds one complete line.
            os.pwrite(self.active, data.ljust(size), 0)
        self._written_s = time.monotonic()

    def is_due(self) -> bool:
        """Whether the last update of the state is old enough for another one."""
        return time.monotonic() - self._written_s >= _WRITE_EVERY_S

    def fail(self, error: BaseException) -> None:
        """Record the error that ended the run."""
        facts = _describe_error(error)
        self.outcome = facts["outcome"]
        self.error = facts.get("error")

    def as_dict(self) -> dict[str, Any]:
        """The line for `runs.jsonl`."""
        line = {
            "command": self.command,
            "started": self.started,
            "seconds": round(time.monotonic() - self._begun_s, 3),
            "cpu_seconds": round(cpu_seconds() - self._cpu_s, 3),
            "outcome": self.outcome,
            "stages": self.stages,
            **({"by": self.by} if self.by else {}),
        }
        return line if self.error is None else line | {"error": self.error}


@dataclass(kw_only=True)
class StageRun:
    """One stage of a run."""

    record: RunRecord
    name: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    report: StageReport | None = None
    begun_s: float = field(default_factory=time.monotonic)
    cpu_s: float = field(default_factory=lambda: cpu_seconds())

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        """Record progress (a `Progress`)."""
        if self.record.is_due():
            self.record.write_state(
                **self.place(),
                done=done,
                total=total,
                notes=dict(notes or {}),
                seconds=round(time.monotonic() - self.begun_s, 1),
            )

    def place(self) -> dict[str, Any]:
        """The stage and the folders that it holds."""
        return {"stage": self.name, "writes": list(self.writes), "reads": list(self.reads)}

    def entry(self) -> dict[str, Any]:
        """The stage's part of the line: inputs, outputs and counts."""
        line: dict[str, Any] = {
            "stage": self.name,
            "writes": list(self.writes),
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
            **({"did": self.report.details["did"]} if "did" in self.report.details else {}),
        }


def tee(*listeners: Progress) -> Progress:
    """One progress callback that forwards to several."""

    def notify(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        for listener in listeners:
            listener(done, total, notes)

    return notify


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _inputs_and_outputs(root: Path, report: StageReport) -> tuple[dict[str, str], dict[str, str]]:
    """Digests by folder of the stage's inputs and outputs, from its manifests."""
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    for output in map(Path, report.outputs):
        try:
            outputs[output.relative_to(root).as_posix()] = input_digest(output)
            inputs |= parse_json_file(output / MANIFEST_NAME, Manifest).inputs
        except (ValueError, ContractError):
            continue  # a file such as report.html, or something outside the workspace
    return inputs, outputs


def _describe_error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        return {"outcome": "interrupted"}
    known = known_error(error)
    message = str(known) if isinstance(known, PipelineError) else f"{type(known).__name__}: {known}"
    return {"outcome": "failed", "error": {"type": type(known).__name__, "message": message}}


def _process() -> dict[str, Any]:
    return {"process": os.getpid(), "host": socket.gethostname()}


@contextlib.contextmanager
def _hold_active(root: Path, command: str) -> Iterator[int]:
    """Create this command's file in `.active/`, locked while the process lives, then remove it."""
    name = f"{command.replace(' ', '-')}-{socket.gethostname()}-{os.getpid()}.json"
    path = root / ACTIVE_NAME / name
    path.parent.mkdir(exist_ok=True)
    # No O_APPEND: Linux would then ignore the offset and write at the end.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(
            descriptor, fcntl.LOCK_EX
        )  # another process may hold it briefly to check for life
        yield descriptor
        path.unlink(missing_ok=True)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _record_killed(root: Path) -> None:
    """Append the lines of killed runs, which could not write them."""
    for path in sorted((root / ACTIVE_NAME).glob("*.json")):
        with contextlib.suppress(OSError), _open(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            left = parse_line(_read(file), ActiveFacts)
            if left is not None:  # None: its command has only just begun
                path.unlink(missing_ok=True)
                facts = {name: left[name] for name in ("command", "started") if name in left}
                stage = {name: left[name] for name in ("stage", "writes") if name in left}
                stages = [stage | {"outcome": "killed"}] if "stage" in left else []
                _append(root, facts | {"outcome": "killed", "stages": stages})


def _append(root: Path, record: Record) -> None:
    """Append a line; if a killed run left a torn line, end that one first.

    If writing fails (a full disk), a warning is logged: the run's own error is more important.
    """
    path = root / RUNS_NAME
    try:
        # O_NONBLOCK: a pipe of that name would otherwise wait for a reader.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, 0o666), "ab+") as file:
            size = file.seek(0, os.SEEK_END)
            torn = size > 0 and os.pread(file.fileno(), 1, size - 1) != b"\n"
            file.write(b"\n" * torn + encode_json(record, default=str))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        logger.warning("This run could not be recorded: %s", storage_error(error, path))


# --- For other processes -------------------------------------------------------------------------


def read_records(root: Path) -> list[Record]:
    """All runs of the workspace, oldest first; torn or damaged lines are left out."""
    path = root / RUNS_NAME
    if not os.path.lexists(path):
        return []
    try:
        lines = read_small_file(path).split(b"\n")
    except ContractError as error:
        logger.warning("The runs of the workspace can't be read: %s", error)
        return []
    return [record for line in lines if (record := parse_line(line, RunLine)) is not None]


@dataclass(frozen=True, kw_only=True)
class Active:
    """The state of a command; `is_running` is false if it was killed."""

    facts: Record
    is_running: bool


def read_active(root: Path) -> list[Active]:
    """The commands that run in the workspace, and those killed since the last run."""
    found = []
    for path in sorted((root / ACTIVE_NAME).glob("*.json")):
        with contextlib.suppress(OSError), _open(path) as file:
            is_running = _is_locked(file)
            facts = parse_line(_read(file), ActiveFacts)
            if facts is not None:
                found.append(Active(facts=facts, is_running=is_running))
    return found


def describe_holder(root: Path, folder: str) -> str:
    """A description of the command that holds a folder of the workspace."""
    for active in read_active(root):
        facts = active.facts
        held = [*facts.get("writes", ()), *facts.get("reads", ()), WHOLE_WORKSPACE]
        if active.is_running and folder in held and facts.get("process") != os.getpid():
            return (
                f"`{facts.get('command')}` (process {facts.get('process')} on {facts.get('host')})"
            )
    return "another process"


def _open(path: Path) -> IO[bytes]:
    """Open for reading; with O_NONBLOCK, since a pipe of that name would wait for a writer."""
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _is_locked(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _read(file: IO[bytes]) -> bytes:
    return os.pread(file.fileno(), min(os.fstat(file.fileno()).st_size, _MAX_ACTIVE_BYTES), 0)
