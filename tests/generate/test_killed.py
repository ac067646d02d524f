"""`pipeline generate` after SIGKILL: it resumes, with the bytes of an uninterrupted run."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.notes import NOTES
from pipeline.generate.run import run
from tests.helpers.progress import items_only

PROMPTS = tuple(f"a red cube on {n} blue cubes" for n in range(24))


def test_a_killed_command_resumes_and_ends_in_the_same_bytes(
    workspace: Workspace, make_config: Callable[..., GenerateConfig]
) -> None:
    folder = workspace.generated("killed")
    options = ["--device", "cpu", "--threads", "1", "--batch-size", "1"]
    command = [sys.executable, "-m", "pipeline", "generate", "--workspace", str(workspace.root)]
    process = subprocess.Popen([*command, "--name", "killed", *options, *PROMPTS])
    while not (folder / "0003-00.png").exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "manifest.json").exists()
    noted = (folder / NOTES).read_bytes().count(b"\n") - 1  # the first line tells the command
    assert 0 < noted < len(PROMPTS)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("0000-*.png")}

    killed = make_config(name="killed", prompts=PROMPTS, num_images=1, batch_size=1)
    resumed: list[int] = []
    run(killed, items_only(lambda done, *_: resumed.append(done)))
    run(dataclasses.replace(killed, name="whole"))

    assert max(resumed) <= len(PROMPTS) - noted
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("0000-*.png")} == before
    assert bytes_of(workspace, "killed") == bytes_of(workspace, "whole")


def bytes_of(workspace: Workspace, name: str) -> dict[str, bytes]:
    files = workspace.generated(name).iterdir()
    return {path.name: path.read_bytes() for path in files if path.name != "manifest.json"}
