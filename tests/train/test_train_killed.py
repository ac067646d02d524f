"""A run killed by SIGKILL resumes and ends in the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from pipeline.core.config import option_values
from pipeline.core.workspace import Workspace
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
from tests.helpers.training import log_of, tree

CHILD = """
import json, sys, time
from pathlib import Path
from pipeline.core.config import build_config
from pipeline.train.config import TrainConfig
from pipeline.train.run import run
options = json.loads(sys.argv[1])
options["workspace"] = Path(options["workspace"])
run(build_config(TrainConfig, options), lambda done, total, notes=None: time.sleep(0.02))
"""


def run_and_kill(config: TrainConfig, when: Callable[[], bool]) -> None:
    """Run `config` in a process of its own; kill it as soon as `when` holds."""
    options = {**option_values(config), "workspace": str(config.workspace)}
    process = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(options)])
    try:
        while not when():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        process.kill()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_killed_at_any_steps_ends_in_the_same_losses_and_bytes(
    workspace: Workspace, make_config: Callable[..., TrainConfig]
) -> None:
    config = make_config(steps=40, save_every=4)
    run(config)
    folder = workspace.run("tiny")
    whole, losses = tree(folder), log_of(folder)
    folder.rename(workspace.root / "elsewhere")

    def last_step() -> int:
        log = folder / "log.jsonl"
        lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
        return max((json.loads(line)["step"] for line in lines if line.endswith(b"\n")), default=0)

    for step in sorted(random.Random(6).sample(range(1, 39), 4)):
        run_and_kill(config, lambda step=step: last_step() >= step)  # type: ignore[misc]
        assert step <= last_step() < 40
    run(config)
    assert log_of(folder) == losses
    assert tree(folder) == whole
