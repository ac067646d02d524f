"""A run killed by SIGKILL goes on and ends in the bytes of one that was left alone."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.models.checkpoints.ours import list_checkpoints
from pipeline.storage import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run

CHILD = """
import json, sys, time
from pathlib import Path
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
options = json.loads(sys.argv[1])
options["workspace"] = Path(options["workspace"])
run(TrainConfig(**options), lambda done, total, notes=None: time.sleep(0.02))
"""


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def run_and_kill(config: TrainConfig, when: Callable[[], bool]) -> None:
    """Run `config` in a process of its own; kill it as soon as `when` holds."""
    import dataclasses
    import json

    options = {**dataclasses.asdict(config), "workspace": str(config.workspace)}
    process = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(options)])
    while not when():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(
    workspace: Workspace, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(steps=40, save_every=4)
    run(config)
    folder = workspace.run("tiny")
    whole = hashes(folder)
    folder.rename(workspace.root / "elsewhere")

    def lines() -> int:
        log = folder / "log.jsonl"
        return log.read_bytes().count(b"\n") if log.exists() else 0

    run_and_kill(config, lambda: len(list_checkpoints(folder / "checkpoints")) >= 1)
    before = lines()
    run_and_kill(config, lambda: lines() >= before + 9)
    run(config)
    assert hashes(folder) == whole
