"""`pipeline status --watch`: redrawn on a terminal, and ended cleanly by Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.core.workspace import Workspace

WITHIN_S = 60.0
LINE = [sys.executable, "-m", "pipeline", "status", "--watch", "--every-s", "0.1", "--workspace"]
ENVIRONMENT = {**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "data").open(source="dalleblog")


def read_until(source: int, words: bytes, text: bytes = b"") -> bytes:
    """The output of `source` up to `words`; fails if they never appear."""
    deadline = time.monotonic() + WITHIN_S
    while words not in text:
        ready, _, _ = select.select([source], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, text
        try:
            some = os.read(source, 65536)
        except OSError:  # The terminal's other end is closed.
            some = b""
        assert some, text
        text += some
    return text


def test_a_terminal_shows_changes_until_ctrl_c(workspace: Workspace) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*LINE, str(workspace.root)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        first = read_until(ours, b"not run")
        assert b"\x1b[?1049h" in first  # a screen of its own, left again at the end
        assert b"unfinished" not in first
        workspace.dedupe.mkdir()
        read_until(ours, b"unfinished")
        process.send_signal(signal.SIGINT)
        last = read_until(ours, b"status: done")
        assert b"\x1b[?1049l" in last
        assert process.wait(WITHIN_S) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_a_file_gets_the_tables_one_below_the_other(workspace: Workspace) -> None:
    with subprocess.Popen(
        [*LINE, str(workspace.root)], stdout=subprocess.PIPE, env=ENVIRONMENT
    ) as process:
        try:
            assert process.stdout is not None
            title = str(workspace.root).encode()
            text = read_until(process.stdout.fileno(), title)
            while text.count(title) < 3:
                text += os.read(process.stdout.fileno(), 65536)
            assert b"\x1b[" not in text
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=WITHIN_S)
            assert b"status: done" in rest
            assert process.returncode == 0
        finally:
            process.kill()
