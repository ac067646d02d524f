"""Killed with SIGKILL while images are inspected: the same command yields the same bytes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command
from tests.helpers.dedupe import RawStore, encode, photo

ROOT = Path(__file__).parents[2]
IMAGES = 640
TIMEOUT_S = 60.0


def command(workspace: Workspace) -> list[str]:
    options = ["--workspace", str(workspace.root), "--workers", "1", "--quiet"]
    return [sys.executable, "-m", "pipeline", "dedupe", *options]


def count_inspected(workspace: Workspace) -> int:
    """The inspections that a running command has stored so far."""
    path = workspace.dedupe / "work.sqlite"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection,
    ):
        return int(connection.execute("SELECT COUNT(*) FROM inspections").fetchone()[0])
    return 0


def kill_while_inspecting(workspace: Workspace) -> None:
    """Start the command and kill it once it has stored a part."""
    process = subprocess.Popen(command(workspace), cwd=ROOT)
    deadline = time.monotonic() + TIMEOUT_S
    while process.poll() is None and not count_inspected(workspace):
        assert time.monotonic() < deadline, "nothing was inspected"
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def finish(workspace: Workspace) -> dict[str, str]:
    """Run the command and hash its output."""
    result = run_command(command(workspace)[3:])
    assert result.exit_code == 0, result.output
    return {
        path.relative_to(workspace.dedupe).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(workspace.dedupe.rglob("*"))
        if path.is_file()
    }


def test_killed_while_inspecting_it_ends_in_the_same_bytes(raw: RawStore, tmp_path: Path) -> None:
    for number in range(IMAGES):
        picture = encode(photo(number % 600, 128, 128), compress_level=1)
        raw.add(f"k{number:03}", picture, f"a cat in {number // 4} hats", rank=number % 4)
    raw.add("broken", b"no image")
    killed = raw.write()
    whole = Workspace(tmp_path / "whole")
    shutil.copytree(killed.root, whole.root)
    kill_while_inspecting(killed)
    assert not killed.dedupe.joinpath("manifest.json").exists()
    assert 0 < count_inspected(killed) < 601
    assert finish(killed) == finish(whole)
