"""A signal to one or all of several processes: all stop after the same step and save."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.train.config import TrainConfig
from tests.helpers.ranks import torchrun
from tests.helpers.training import log_of, open_workspace, tree

MakeConfig = Callable[..., TrainConfig]

# Rank 1 alone gets a signal while it adds up the gradients of the seventh step.
ONE_ALONE = """
import os, signal
from pipeline.train.trainer import Trainer
healthy = Trainer.loss
def loss(self, module, batch):
    if os.environ["RANK"] == "1" and self.state.step == 6:
        signal.raise_signal(signal.SIGTERM)
    return healthy(self, module, batch)
Trainer.loss = loss
"""
# Rank 1 alone gets a signal in the second batch of the validation after the fourth step.
IN_VALIDATION = """
import os, signal
from pipeline.train.trainer import Trainer
healthy, batches = Trainer.loss, []
def loss(self, module, batch):
    if not self.state.model.training:
        batches.append(batch)
        if os.environ["RANK"] == "1" and len(batches) == 2:
            signal.raise_signal(signal.SIGTERM)
    return healthy(self, module, batch)
Trainer.loss = loss
"""
KINDS: dict[str, dict[str, Any]] = {
    "ddp": {"parallel": "ddp"},
    "fsdp": {"parallel": "fsdp"},
    "zero 0": {"parallel": "deepspeed", "zero_stage": 0},
    "zero 2": {"parallel": "deepspeed", "zero_stage": 2},
    "zero 3": {"parallel": "deepspeed", "zero_stage": 3},
}
KINDS_TO_TRY = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            kind.startswith("zero") and find_spec("deepspeed") is None, reason="needs deepspeed"
        ),
    )
    for kind in KINDS
]


def steps_of(folder: Path) -> list[int]:
    return [read_info(path).step for path in list_checkpoints(folder / "checkpoints")]


def stop_one_alone(workspace: Workspace, config: TrainConfig) -> None:
    stopped = torchrun(config, before=ONE_ALONE)
    assert stopped.returncode != 0
    assert steps_of(workspace.run("tiny")) == [4, 7], stopped.stderr
    assert "Stopped after step 7" in stopped.stderr


def test_a_signal_to_one_process_stops_all_after_the_same_step(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    stop_one_alone(workspace, make_config(batch_size=4, steps=9, save_every=4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS_TO_TRY)
def test_stopped_processes_resume_to_the_same_bytes(
    workspace: Workspace, make_config: MakeConfig, kind: str
) -> None:
    config = make_config(batch_size=4, steps=9, save_every=4, val_every=9, **KINDS[kind])
    stop_one_alone(workspace, config)
    done = torchrun(config)
    assert done.returncode == 0, done.stderr
    folder = workspace.run("tiny")
    found = tree(folder)
    folder.rename(workspace.root / "elsewhere")
    whole = torchrun(config)
    assert whole.returncode == 0, whole.stderr
    assert found == tree(folder)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_validation_is_broken_off_by_all(
    workspace: Workspace, make_config: MakeConfig, kind: str
) -> None:
    config = make_config(batch_size=1, steps=5, val_every=4, **KINDS[kind])
    stopped = torchrun(config, before=IN_VALIDATION)
    assert stopped.returncode != 0
    folder = workspace.run("tiny")
    assert steps_of(folder) == [4], stopped.stderr
    assert not any("val_loss" in record for record in log_of(folder))
    assert torchrun(config).returncode == 0
    assert [record["step"] for record in log_of(folder) if "val_loss" in record] == [4, 5]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_torchrun_is_one_to_all(workspace: Workspace, number: signal.Signals) -> None:
    open_workspace(workspace)
    small = "--dim 16 --depth 1 --heads 1 --dim-head 16 --batch-size 4 --device cpu --log-every 1"
    endless = f"--steps 1000000 --save-every 1000000 --workspace {workspace.root}"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    pipeline = ["--nproc-per-node", "2", "-m", "pipeline", "train"]
    log = workspace.run("dalle") / "log.jsonl"
    with subprocess.Popen(
        [*launcher, *pipeline, *small.split(), *endless.split()], stderr=subprocess.PIPE, text=True
    ) as process:
        while not (log.exists() and log.read_bytes().count(b"\n") > 3):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate()
    (step,) = steps_of(workspace.run("dalle"))
    assert step > 3, stderr
    assert len(log_of(workspace.run("dalle"))) == step
