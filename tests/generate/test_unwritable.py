"""Generating with `--out` from a read-only workspace."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.workspace import Workspace

PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
ROOT = Path(__file__).parents[2]


@pytest.fixture
def shelf(workspace: Workspace, tmp_path: Path) -> Iterator[Path]:
    """A folder with a workspace that can't be written to, and `mine`, which can."""
    (tmp_path / "mine").mkdir()
    everything = (workspace.root, *workspace.root.rglob("*"))
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield tmp_path
    for path in everything:
        path.chmod(0o755)


def obey_modes() -> None:
    """Let the modes of files count for root too."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0):
        raise OSError("root can't give up its right to write everywhere")


def generate(shelf: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline", "generate", "--json", "--device", "cpu"]
    command += ["--threads", "1", "--workspace", str(shelf / "workspace"), *options, "a red cube"]
    env = {**os.environ, "HOME": str(shelf / "mine"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        cwd=shelf / "mine",
        check=False,
        preexec_fn=obey_modes,
    )


def test_a_workspace_that_can_only_be_read_is_drawn_from(shelf: Path) -> None:
    before = sorted((shelf / "workspace").rglob("*"))
    done = generate(shelf, "--out", str(shelf / "mine/images"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["outputs"] == [str(shelf / "mine/images")]
    assert (shelf / "mine/images/0000-00.png").exists()
    assert sorted((shelf / "workspace").rglob("*")) == before


def test_without_a_place_of_its_own_it_says_that_it_can_not_write(shelf: Path) -> None:
    done = generate(shelf)
    assert done.returncode == 1
    assert "Permission denied" in done.stderr
    assert "unexpected error" not in done.stderr
