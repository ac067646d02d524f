"""Progress is one line with its counters, however narrow the terminal is."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from rich.cells import cell_len

from pipeline.app.progress_line import progress_line
from pipeline.app.stages import STAGES

MANY = 1_103_232
NOTES: dict[str, int | float | str] = {
    "http_404": 12_345,
    "waiting for": "https://cdn.openai.com until 12:31:07",
    "loss": 6.54321,
    "猫猫": 3,
}


@pytest.mark.parametrize("stage", list(STAGES))
@pytest.mark.parametrize("notes", [None, NOTES])
@pytest.mark.parametrize("rate", [0.0, 0.01, 11_144.25])
def test_the_counters_of_every_stage_fit_60_columns(
    stage: str, notes: dict[str, int | float | str] | None, rate: float
) -> None:
    for done in (0, 999_999, MANY):
        line = progress_line(stage, done, MANY, rate, notes, width=60)
        assert cell_len(line) <= 60
        assert line.startswith(f"{stage}: {done:,} of {MANY:,}")
        assert progress_line(stage, done, None, rate, notes, width=60).startswith(
            f"{stage}: {done:,} done"
        )


def test_what_matters_least_is_left_out_first() -> None:
    def line(width: int | None) -> str:
        return progress_line("scrape", 5_000, 20_000, 100.0, {"http_404": 3}, width=width)

    whole = "scrape: 5,000 of 20,000 (25 %), 100.0/s, 2 min 30 s left  http_404 3"
    assert line(None) == line(len(whole)) == whole
    assert line(60) == "scrape: 5,000 of 20,000 (25 %), 100.0/s, 2 min 30 s left  h…"
    assert line(51) == "scrape: 5,000 of 20,000, 100.0/s, 2 min 30 s left…"
    assert line(43).startswith("scrape: 5,000 of 20,000, 2 min 30 s left")
    assert line(30).startswith("scrape: 5,000 of 20,000")


SCRIPT = """
from pipeline.app.console import Screen
with Screen().progress("train-tokenizer") as progress:
    for done in range(3):
        progress(999_999 + done, 1_103_232, {"http_404": 12_345, "disconnected": 99, "timeout": 7})
        __import__("time").sleep(0.3)
"""


@pytest.mark.parametrize("columns", [40, 60, 120])
def test_a_terminal_shows_one_line(columns: int) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    drawn = [line for line in re.split(r"[\r\n]+", text) if line.strip()]
    assert all("train-tokenizer: " in line for line in drawn)
    assert any("1,000,001 of 1,103,232" in line for line in drawn)
    assert max(map(cell_len, drawn)) <= columns


def test_lines_of_a_log_fit_the_columns_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.app.console import Screen

    monkeypatch.setattr("pipeline.app.console.PLAIN_LINE_EVERY_S", 0.0)
    for columns, longest in (("60", 60), ("", 200)):
        monkeypatch.setenv("COLUMNS", columns)
        with Screen().progress("scrape") as progress:
            progress(0, MANY, NOTES)
            progress(10, MANY, NOTES)
        (line,) = capsys.readouterr().out.splitlines()
        assert cell_len(line) <= longest
        assert ("loss" in line) is (columns == "")
