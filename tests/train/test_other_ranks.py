"""A run resumed with another number of processes ends after its epochs, with correct counts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import list_checkpoints, read_info
from pipeline.train.config import TrainConfig
from pipeline.train.optimizer import learning_rate
from pipeline.train.run import run
from tests.helpers.ranks import torchrun
from tests.helpers.training import log_of
from tests.train.test_train_interrupted import be_interrupted

MakeConfig = Callable[..., TrainConfig]

# The first process gets a signal in the fourth step.
STOP_AFTER_4 = """
import os, signal
from pipeline.train.trainer import Trainer
healthy = Trainer.loss
def loss(self, module, batch):
    if os.environ["RANK"] == "0" and self.state.step == 3:
        signal.raise_signal(signal.SIGTERM)
    return healthy(self, module, batch)
Trainer.loss = loss
"""


def options_of(**options: Any) -> dict[str, Any]:
    passes = {"steps": None, "epochs": 2, "batch_size": 4, "learning_rate": 1.0, "warmup_steps": 3}
    return {"clip_grad_norm": 0.01, "val_every": 0, "save_every": 0, **passes, **options}


def rates_of(workspace: Workspace) -> list[float]:
    return [record["lr"] for record in log_of(workspace.run("tiny")) if "lr" in record]


def assert_two_passes(workspace: Workspace, *, steps: int) -> None:
    """That the run ended after two passes of 40 samples, and says so everywhere."""
    manifest = read_manifest(workspace.run("tiny"), "run")
    assert manifest.counts["samples"] == 80
    assert manifest.counts["steps"] == steps
    info = read_info(list_checkpoints(workspace.run("tiny") / "checkpoints")[-1])
    assert (info.step, info.epoch, info.consumed) == (steps, 2, 0)
    assert info.training["samples"] == 80


def test_one_process_resumes_as_two(workspace: Workspace, make_config: MakeConfig) -> None:
    be_interrupted(make_config(**options_of()), 3)  # stops after the fourth of 20 steps
    done = torchrun(make_config(**options_of()))
    assert done.returncode == 0, done.stderr
    assert_two_passes(workspace, steps=4 + 8)
    config = make_config(**options_of())
    expected = [
        learning_rate(n, total_steps=20, config=config) for n in (*range(1, 5), *range(5, 21, 2))
    ]
    assert rates_of(workspace) == pytest.approx(expected, abs=1e-12)


def test_two_processes_resume_as_one(workspace: Workspace, make_config: MakeConfig) -> None:
    stopped = torchrun(make_config(**options_of()), before=STOP_AFTER_4)
    assert stopped.returncode != 0
    run(make_config(**options_of()))
    assert_two_passes(workspace, steps=4 + 12)
    # In steps of the 8 samples that the run began with.
    config, halves = make_config(**options_of()), (5 + half / 2 for half in range(12))
    expected = [learning_rate(n, total_steps=10, config=config) for n in (*range(1, 5), *halves)]
    assert rates_of(workspace) == pytest.approx(expected, abs=1e-12)
    assert all(before > after for before, after in itertools.pairwise(expected[3:]))


@pytest.mark.slow
def test_steps_stay_steps(workspace: Workspace, make_config: MakeConfig) -> None:
    options = options_of(steps=10)
    be_interrupted(make_config(**options), 3)
    done = torchrun(make_config(**options))
    assert done.returncode == 0, done.stderr
    counts = read_manifest(workspace.run("tiny"), "run").counts
    assert (counts["steps"], counts["samples"]) == (10, 4 * 4 + 6 * 8)
    config = make_config(**options)
    expected = [learning_rate(step, total_steps=10, config=config) for step in range(1, 11)]
    assert rates_of(workspace) == expected


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")
@pytest.mark.parametrize("kind", ["ddp", "fsdp", "zero 1", "zero 3"])
def test_a_last_step_of_fewer_batches_is_that_of_one_process(
    workspace: Workspace, make_config: MakeConfig, kind: str
) -> None:
    """Two passes of 5 batches, 3 a step: the last step has one."""
    parallel, _, stage = kind.partition(" ")
    engine = (
        {"parallel": "deepspeed", "zero_stage": int(stage)} if stage else {"parallel": parallel}
    )
    options = options_of(
        ga_steps=3, ff_dropout=0.0, attn_dropout=0.0, learning_rate=1e-2, val_every=2
    )
    run(make_config(**options | {"batch_size": 8, "name": "one"}))
    done = torchrun(make_config(**options | engine))
    assert done.returncode == 0, done.stderr
    assert_two_passes(workspace, steps=4)
    one, two = (log_of(workspace.run(name)) for name in ("one", "tiny"))
    for mine, theirs in zip(one, two, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3)
