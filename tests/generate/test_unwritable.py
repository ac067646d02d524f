"""Drawing with `--out` from a workspace that the user may only read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workspace import Workspace

NOBODY = 65534
ROOT = Path(__file__).parents[2]


@pytest.fixture
def shelf(workspace: Workspace) -> Iterator[Path]:
    """A folder with a workspace that can't be written to and `mine`, which can; outside of tmp_path, into
    which other users can't look."""
    folder = Path(tempfile.mkdtemp(prefix="shelf-"))
    folder.chmod(0o755)
    shutil.copytree(workspace.root, folder / "workspace")
    for path in (folder / "workspace", *(folder / "workspace").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    (folder / "mine").mkdir()
    if os.geteuid() == 0:
        os.chown(folder / "mine", NOBODY, NOBODY)
    yield folder
    for path in (folder / "workspace").rglob("*"):
        path.chmod(0o755)
    shutil.rmtree(folder, ignore_errors=True)


def generate(shelf: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user who is not root; root may write everywhere."""
    command = [sys.executable, "-m", "pipeline", "generate", "--json", "--device", "cpu"]
    command += ["--threads", "1", "--workspace", str(shelf / "workspace"), *options, "a red cube"]
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    env = {**os.environ, "HOME": str(shelf / "mine"), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=env,
        cwd=shelf / "mine",
        check=False,
        **user,  # type: ignore[call-overload]
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
    assert "not an error we know" not in done.stderr
