"""Output of the command line: progress, reports, errors. Nothing else prints.

With ``--json`` the last line on stdout is the report as one JSON object and everything else goes to stderr;
with ``--quiet`` only errors are printed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from pipeline.app.progress_line import progress_line
from pipeline.app.stages import STAGES
from pipeline.core.contracts import StageReport
from pipeline.core.plain_text import PlainFormatter, plain_json, plain_line, plain_text
from pipeline.core.progress import NOW, Progress, no_progress

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 5.0
SILENCE_S = 8.0  # after which a stage that reports nothing is shown to be alive
LOOK_EVERY_S = 0.5
PLAIN_WIDTH = 140  # columns if the output is not a terminal
_BAR_WIDTH = 30
_WIDTH_WITH_BAR = 100


class Screen:
    """Where a command prints; one per command."""

    def __init__(
        self, *, json_mode: bool = False, quiet: bool = False, data_on_stdout: bool = False
    ) -> None:
        self.json_mode = json_mode
        self.quiet = quiet
        to_stderr = json_mode or data_on_stdout
        stream = sys.stderr if to_stderr else sys.stdout
        is_terminal = stream.isatty()
        width = None if is_terminal else PLAIN_WIDTH
        # No markup and no emoji codes: text from other people is printed as it is.
        self.out = Console(
            stderr=to_stderr,
            # Not what FORCE_COLOR says, which notebooks set: a pipe gets no bar that redraws itself.
            force_terminal=None if is_terminal else False,
            quiet=quiet,
            width=width,
            highlight=False,
            soft_wrap=True,
            markup=False,
            emoji=False,
        )
        self.errors = Console(
            stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False
        )

    def say(self, text: str) -> None:
        """Print a line for people."""
        self.out.print(plain_text(text))

    def fail(self, message: str) -> None:
        """Print an error in one sentence."""
        self.errors.print(f"Error: {plain_text(message)}", style="red")

    def emit(self, value: Mapping[str, Any]) -> None:
        """Print the JSON line, if requested."""
        if self.json_mode:
            sys.stdout.write(_json_line(value, sys.stdout.encoding))
            sys.stdout.flush()

    def report(self, report: StageReport) -> None:
        """Print what a stage did."""
        counts = ", ".join(f"{name} {number:,}" for name, number in report.counts.items() if number)
        took = f"in {report.seconds:.1f} s"
        words = {
            "done": f"done {took}",
            "unchanged": f"nothing to do: inputs and options are unchanged; checked {took}",
            "incomplete": f"done {took}, but some items failed",
            "damaged": f"done {took}; found damage",
        }
        line = f"{report.stage}: {words[report.outcome]}"
        self.say(f"{line} ({counts})" if counts else line)
        for name, value in report.details.get("shown", {}).items():
            self.say(f"  {name}: {value}")
        for output in report.outputs:
            self.say(f"  → {output}")
        stage = STAGES.get(report.stage)
        if report.outcome == "incomplete" and stage is not None and stage.on_incomplete:
            self.say(f"  {stage.on_incomplete}")
        by_section = report.details.get("sections")
        if by_section and report.outcome != "unchanged":
            self._section_table(f"{report.stage} by section", by_section)
        for line in report.next:
            self.say(line)

    def _section_table(self, title: str, sections: Mapping[str, Mapping[str, int]]) -> None:
        """One row per section and one column per count, with totals."""
        names = sorted(
            {n for counts in sections.values() for n, number in counts.items() if number}
        )
        rows = [
            (section, *(counts.get(n, 0) for n in names)) for section, counts in sections.items()
        ]
        sums = (sum(counts.get(n, 0) for counts in sections.values()) for n in names)
        self.table(title, ("section", *names), [*rows, ("all", *sums)] if len(rows) > 1 else rows)

    def table(self, title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
        """Print rows under headings; numbers are right-aligned."""
        table = Table(title=plain_line(title), title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            numeric = bool(rows) and all(isinstance(row[index], (int, float)) for row in rows)
            table.add_column(
                plain_line(column), justify="right" if numeric else "left", no_wrap=index == 0
            )
        for row in rows:
            cells = (f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row)
            table.add_row(*map(plain_line, cells))
        self.out.print(table)

    @contextlib.contextmanager
    def redraw(self) -> Iterator[Callable[[Callable[[], T]], T]]:
        """Yield a function that calls another one and shows its output in place of the previous one.

        If the output is not a terminal, everything is printed one below the other.
        """
        if not self.out.is_terminal:
            yield lambda show: show()
            return
        from rich.live import Live
        from rich.text import Text

        with Live(console=self.out, auto_refresh=False, screen=True) as live:

            def draw(show: Callable[[], T]) -> T:
                with self.out.capture() as shown:
                    value = show()
                live.update(Text.from_ansi(shown.get()), refresh=True)
                return value

            yield draw

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Progress]:
        """Yield a progress callback for a stage: a bar on a terminal, plain lines otherwise."""
        if self.quiet:
            yield no_progress
        elif self.out.is_terminal:
            with _bar(self.out, label) as bar:
                yield bar
        else:
            with _PlainProgress(label, self.say).kept_alive() as plain:
                yield plain


class CurrentStderr:
    """Writes to what is `sys.stderr` at that moment: a bar on a terminal takes its place, to stay below."""

    def write(self, text: str) -> None:
        """Write text."""
        sys.stderr.write(text)

    def flush(self) -> None:
        """Flush it."""
        sys.stderr.flush()


class LogFormatter(PlainFormatter):
    """Log records as lines; of announcements the text alone, unless `whole` is set."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")
        self._announced = PlainFormatter(
            "%(levelname)s %(name)s: %(message)s" if whole else "%(message)s"
        )

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        if record.levelno == logging.INFO:
            return self._announced.format(record)
        return super().format(record)


def _json_line(value: Mapping[str, Any], encoding: str | None) -> str:
    """`value` as a JSON line that can be written in `encoding`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, default=str)
    return plain_json(text) + "\n"


_State = tuple[int, int | None, Mapping[str, int | float | str] | None]
_AT_FIRST: Mapping[str, int | float | str] = {NOW: "starting"}


class _PlainProgress:
    """Prints a line every few seconds, also while the stage reports nothing."""

    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self._label = label
        self._say = say
        self._lock = threading.Lock()
        self._state: _State = (0, None, _AT_FIRST)
        self._started: float | None = None
        self._first = 0
        self._changed = self._spoken = time.monotonic()

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        with self._lock:
            now = time.monotonic()
            self._state, self._changed = (done, total, notes), now
            if self._started is None:
                self._started, self._first = now, done
                return
            if now - self._spoken >= PLAIN_LINE_EVERY_S:
                self._speak(now)

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[Progress]:
        """Print a line whenever the stage was silent for long, while the block runs."""
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,), name="progress", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(LOOK_EVERY_S):
            with self._lock:
                now = time.monotonic()
                if now - self._spoken >= SILENCE_S:
                    self._speak(now, silent_s=now - self._changed)

    def _speak(self, now: float, silent_s: float = 0.0) -> None:
        done, total, notes = self._state
        passed = 0.0 if self._started is None else now - self._started
        rate = (done - self._first) / passed if passed else 0.0
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else None
        notes = with_silence(notes, silent_s)
        self._spoken = now
        self._say(progress_line(self._label, done, total, rate, notes, width=width))


def with_silence(
    notes: Mapping[str, int | float | str] | None, silent_s: float
) -> Mapping[str, int | float | str]:
    """The notes of a stage, and for how long it has reported nothing if that is long."""
    if silent_s < PLAIN_LINE_EVERY_S:
        return notes or {}
    return {**(notes or {}), "no change for": f"{silent_s:.0f} s"}


@contextlib.contextmanager
def _bar(console: Console, label: str) -> Iterator[Progress]:
    """Draw one line, with a bar if there is room for it."""
    from rich.progress import BarColumn, ProgressColumn, Task
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    changed = time.monotonic()
    bar = [BarColumn(_BAR_WIDTH)] if console.width >= _WIDTH_WITH_BAR else []

    class Line(ProgressColumn):
        def render(self, task: Task) -> Text:
            width = console.width - len(bar) * (_BAR_WIDTH + 1)
            total = None if task.total is None else int(task.total)
            line = progress_line(
                task.description,
                int(task.completed),
                total,
                task.speed or 0.0,
                with_silence(task.fields["notes"], time.monotonic() - changed),
                width=width,
            )
            return Text(plain_line(line), no_wrap=True, overflow="ellipsis")

    with RichProgress(*bar, Line(), console=console, transient=True) as rich_progress:
        task = rich_progress.add_task(plain_line(label), total=None, notes=_AT_FIRST)

        def update(
            done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
        ) -> None:
            nonlocal changed
            changed = time.monotonic()
            rich_progress.update(task, completed=done, total=total, notes=notes)

        yield update
