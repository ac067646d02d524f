"""Losses that are read some steps later: the same run, and the same promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from pipeline.core.errors import ModelError
from pipeline.core.workspace import Workspace
from pipeline.models.checkpoints.native import (
    MODEL_FILE,
    OPTIMIZER_FILE,
    list_checkpoints,
    read_info,
    read_tensors,
)
from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.feeding import DeviceBatch
from pipeline.train.run import run
from pipeline.train.state import TrainState
from pipeline.train.trackers import Meter
from pipeline.train.trainer import Trainer
from pipeline.train.unread import MOST_UNREAD, TrainedStep, UnreadSteps, reading_period
from tests.helpers.training import StoppedError, TrainedRuns, stop_at, tree

MakeConfig = Callable[..., TrainConfig]
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "log_every", "period"),
    [(CPU, 10, 1), (CUDA, 10, 10), (CUDA, 1, 1), (CUDA, 1000, MOST_UNREAD)],
)
def test_a_gpu_runs_ahead_of_its_losses_and_a_cpu_does_not(
    device: torch.device, log_every: int, period: int
) -> None:
    assert reading_period(device, log_every) == period


@pytest.fixture
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses are read as rarely as on a GPU."""
    monkeypatch.setattr("pipeline.train.trainer.reading_period", lambda _, every: min(every, 50))


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulated": {"ga_steps": 3, "batch_size": 7},
    "plateau": {"lr_decay": "plateau", "batch_size": 20},
    "average": {"ema_decay": 0.9},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("name", list(OPTIONS))
def test_a_run_is_the_same_whenever_its_losses_are_read(
    name: str,
    workspace: Workspace,
    make_config: MakeConfig,
    trained: TrainedRuns,
    request: pytest.FixtureRequest,
) -> None:
    config = make_config(log_every=3, val_every=0, save_every=7, **OPTIONS[name])
    expected = trained.whole(config)
    request.getfixturevalue("as_on_cuda")
    run(config)
    assert tree(workspace.run("tiny")) == expected


@pytest.mark.usefixtures("as_on_cuda")
def test_losses_are_read_where_they_are_needed_and_nowhere_else(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An epoch is 5 steps. Logged at 7 and 14, saved at 8, validated at 12; the last step is 16."""
    read: list[int] = []
    original = Trainer.read

    def remember(self: Trainer, unread: UnreadSteps, stop: Any) -> TrainedStep:
        read.append(self.state.step)
        return original(self, unread, stop)

    monkeypatch.setattr(Trainer, "read", remember)
    run(make_config(steps=16, log_every=7, save_every=8, val_every=12))
    assert read == [5, 7, 8, 10, 12, 14, 15, 16]


@pytest.mark.usefixtures("as_on_cuda")
def test_a_run_that_was_stopped_between_readings_resumes_with_the_next_step(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    config = make_config(log_every=3, val_every=0, save_every=4)
    run(config)
    whole = tree(workspace.run("tiny"))
    workspace.run("tiny").rename(workspace.root / "elsewhere")
    with pytest.raises(StoppedError):
        run(config, stop_at(6))
    run(config)
    assert tree(workspace.run("tiny")) == whole


def break_a_step(monkeypatch: pytest.MonkeyPatch, step: int, how: Callable[..., DalleLoss]) -> None:
    """Change the loss of the step's only batch."""
    healthy, calls = Trainer.loss, itertools.count(1)

    def loss_of(trainer: Trainer, module: nn.Module, batch: DeviceBatch) -> DalleLoss:
        loss = healthy(trainer, module, batch)
        return how(loss) if next(calls) == step else loss

    monkeypatch.setattr(Trainer, "loss", loss_of)


BROKEN = {
    "loss and gradient": (lambda loss: loss._replace(total=loss.total * math.nan), "loss nan"),
    "loss alone": (lambda loss: loss._replace(text=loss.text.detach() * math.inf), "loss_text inf"),
}


@pytest.mark.usefixtures("as_on_cuda")
@pytest.mark.parametrize("name", list(BROKEN))
def test_a_broken_loss_changes_no_weight_and_neither_does_any_step_after_it(
    name: str, workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step 7 fails, which is noticed after step 10: the end of an epoch. Its samples are named."""
    states: list[TrainState] = []
    make_meter = Trainer.make_meter

    def remember(self: Trainer) -> Meter:
        states.append(self.state)
        return make_meter(self)

    options = {"log_every": 100, "val_every": 0, "save_every": 0}
    run(make_config(name="until", steps=6, lr_decay="constant", **options))
    until = list_checkpoints(workspace.run("until") / "checkpoints")[-1]
    monkeypatch.setattr(Trainer, "make_meter", remember)
    how, said = BROKEN[name]
    break_a_step(monkeypatch, 7, how)
    with pytest.raises(ModelError, match=rf"before step 7: .*{said}.*on the samples train_00") as e:
        run(make_config(steps=30, lr_decay="constant", **options))
    assert str(e.value).count("train_00") == 8
    (state,) = states
    assert state.step == 10
    expected = read_tensors(until, MODEL_FILE)
    for key, weight in state.model.state_dict().items():
        assert torch.equal(weight, expected[key]), key
    for key, moment in read_tensors(until, OPTIMIZER_FILE).items():
        assert torch.equal(state.stepper.moments()[key], moment), key


@pytest.mark.usefixtures("as_on_cuda")
def test_nothing_is_saved_after_a_broken_loss(
    workspace: Workspace, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_a_step(monkeypatch, 7, BROKEN["loss and gradient"][0])
    with pytest.raises(ModelError, match="before step 7"):
        run(make_config(steps=30, log_every=100, val_every=0, save_every=4))
    (last,) = list_checkpoints(workspace.run("tiny") / "checkpoints")
    assert read_info(last).step == 4


def trained_step(step: int, batches: int) -> TrainedStep:
    losses = torch.arange(batches * 3, dtype=torch.float64).view(1, batches, 3) + 100 * step
    return TrainedStep(
        step=step,
        batches=(),
        losses_RS3=losses,
        votes_R=torch.tensor([step % 2], dtype=torch.float64),
        norm=torch.tensor(0.5 + step),
        scale=torch.tensor(2.0**step),
    )


def test_steps_of_any_number_of_batches_are_read_in_order() -> None:
    unread, steps = UnreadSteps(), [trained_step(number, 1 + number % 3) for number in range(1, 6)]
    for step in steps:
        unread.add(step)
    read = unread.read()
    assert len(unread) == 0
    assert unread.read() == []
    for ours, given in zip(read, steps, strict=True):
        assert ours.step == given.step
        assert torch.equal(ours.losses_RS3, given.losses_RS3)
        assert torch.equal(ours.votes_R, given.votes_R)
        assert (ours.norm.item(), ours.scale.item()) == (given.norm.item(), given.scale.item())
