"""Output of the command line: progress, reports, errors. Nothing else prints.

With ``--json`` the last line on stdout is the report as one JSON object and everything else goes to stderr;
with ``--quiet`` only errors are printed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from pipeline.app.progress_line import progress_line
from pipeline.app.stages import STAGES
from pipeline.core.contracts import StageReport
from pipeline.core.plain_text import plain_json, plain_line, plain_text
from pipeline.core.progress import Progress, no_progress

T = TypeVar("T")

PLAIN_LINE_EVERY_S = 5.0
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
        width = None if stream.isatty() else PLAIN_WIDTH
        # No markup and no emoji codes: text from other people is printed as it is.
        self.out = Console(
            stderr=to_stderr,
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
        for line in report.details.get("next", ()):
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
            yield _PlainProgress(label, self.say)


def _json_line(value: Mapping[str, Any], encoding: str | None) -> str:
    """`value` as a JSON line that can be written in `encoding`."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    try:
        text.encode(encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(value, default=str)
    return plain_json(text) + "\n"


class _PlainProgress:
    def __init__(self, label: str, say: Callable[[str], None]) -> None:
        self._label = label
        self._say = say
        self._started: float | None = None
        self._spoken = 0.0
        self._first = 0

    def __call__(
        self, done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        now = time.monotonic()
        if self._started is None:
            self._started, self._spoken, self._first = now, now, done
            return
        if now - self._spoken < PLAIN_LINE_EVERY_S:
            return
        self._spoken = now
        rate = (done - self._first) / (now - self._started)
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isdecimal() else None
        self._say(progress_line(self._label, done, total, rate, notes, width=width))


@contextlib.contextmanager
def _bar(console: Console, label: str) -> Iterator[Progress]:
    """Draw one line, with a bar if there is room for it."""
    from rich.progress import BarColumn, ProgressColumn, Task
    from rich.progress import Progress as RichProgress
    from rich.text import Text

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
                task.fields["notes"],
                width=width,
            )
            return Text(plain_line(line), no_wrap=True, overflow="ellipsis")

    with RichProgress(*bar, Line(), console=console, transient=True) as rich_progress:
        task = rich_progress.add_task(plain_line(label), total=None, notes=None)

        def update(
            done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
        ) -> None:
            rich_progress.update(task, completed=done, total=total, notes=notes)

        yield update
