"""The length of a run, its progress, and the learning rate by step.

Length and progress count in steps with `--steps`, otherwise in passes through the samples. A run may be
resumed with a different number of processes, which changes the samples per step. With `--epochs`, the end
and the learning rate follow the samples, so neither moves: the schedule counts in steps of the run's
original size. With `--steps`, they follow the steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.train.config import TrainConfig
from pipeline.train.data import Position


def step_samples(config: TrainConfig, ranks: int) -> int:
    """Samples per full step over all ranks."""
    return config.batch_size * config.ga_steps * ranks


def first_step_samples(config: TrainConfig, ranks: int, samples: int) -> int:
    """Samples in a new run's first step: a full step's, or fewer if all its epochs together have fewer."""
    whole, batch = step_samples(config, ranks), config.batch_size * ranks
    if config.steps is not None:
        return whole
    return min(whole, config.epochs * (samples // batch * batch))


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """The length of a run on `samples` training samples.

    `ranks` is the current number of processes; `unit` is the samples per step when the run started.
    """

    config: TrainConfig
    samples: int
    ranks: int
    unit: int

    @property
    def batch(self) -> int:
        """Samples per forward pass over all ranks; an epoch drops a last batch that is not full."""
        return self.config.batch_size * self.ranks

    @property
    def pass_samples(self) -> int:
        """Samples used per epoch."""
        return self.samples // self.batch * self.batch

    @property
    def total(self) -> float:
        """Length of the run in steps of `unit` samples."""
        if self.config.steps is not None:
            return self.config.steps
        return self.config.epochs * self.pass_samples / self.unit

    def done(self, step: int, position: Position, samples: int) -> float:
        """Progress in steps of `unit`, after `step` steps on `samples` samples up to `position`.

        During warm-up it follows the samples trained on, afterwards the position in the epochs: with another
        number of ranks an epoch may drop more or fewer samples at its end.
        """
        if self.config.steps is not None:
            return step
        trained, warmup = samples / self.unit, self.config.warmup_steps
        if trained < warmup:
            return trained
        return max(warmup, (position.epoch * self.pass_samples + position.consumed) / self.unit)

    def steps_left(self, step: int, position: Position) -> int:
        """The number of steps left; the last one may have fewer batches."""
        if self.config.steps is not None:
            return max(0, self.config.steps - step)
        passes = self.config.epochs - position.epoch
        if passes <= 0:
            return 0
        batches = (self.samples - position.consumed) // self.batch
        batches += (passes - 1) * (self.pass_samples // self.batch)
        return -(-batches // self.config.ga_steps)


def learning_rate(step: float, *, total_steps: float, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 1): warm-up over `warmup_steps`, then `lr_decay` towards 0.

    Steps are those of `RunLength`, and fractional if the run was resumed with another batch size. The
    factor of `plateau` is not included. For `cosine` and `linear` the last step's rate is just above 0.
    """
    iteration, warmup = step - 1, config.warmup_steps
    if iteration < warmup:
        return config.learning_rate * warmup_factor(iteration, warmup, config.warmup_type)
    left = max(0.0, (total_steps - iteration) / max(1, total_steps - warmup))
    factors = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left}
    return config.learning_rate * factors.get(config.lr_decay, 1.0)


def warmup_factor(iteration: float, warmup_steps: int, kind: str) -> float:
    """The factor, 0 to 1, of the peak rate in iteration `iteration` (from 0) of the warm-up.

    With linear decay this is the curve of DeepSpeed's `WarmupDecayLR` with `warmup_min_lr` 0
    (deepspeed/runtime/lr_schedules.py), whose default `warmup_type` is log.
    """
    if kind == "log":
        return math.log(iteration + 1) / math.log(max(2, warmup_steps))
    return iteration / warmup_steps


class Plateau:
    """Halves the learning rate after epochs without improvement, as DALLE-pytorch's train_dalle.py does.

    torch's ReduceLROnPlateau with that script's constants, fed the last loss of each epoch.
    """

    def __init__(self, learning_rate: float) -> None:
        self._peak = learning_rate
        dummy = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
        self._scheduler = ReduceLROnPlateau(
            dummy, mode="min", factor=0.5, patience=10, cooldown=10, min_lr=1e-6
        )

    @property
    def factor(self) -> float:
        """The current factor on the learning rate, 0 to 1."""
        rate: float = self._scheduler.optimizer.param_groups[0]["lr"]
        return rate / self._peak if self._peak else 1.0

    def end_epoch(self, loss: float) -> None:
        """Record an epoch's last loss."""
        self._scheduler.step(loss)

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON values."""
        state = self._scheduler.state_dict()
        names = ("cooldown_counter", "num_bad_epochs", "last_epoch")
        best = float(state["best"])
        rate = self._scheduler.optimizer.param_groups[0]["lr"]
        known = {"best": best if math.isfinite(best) else None, "rate": rate}
        return known | {name: state[name] for name in names}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of `as_dict`."""
        values = dict(state)
        self._scheduler.optimizer.param_groups[0]["lr"] = values.pop("rate")
        best = values.pop("best")
        self._scheduler.load_state_dict({**values, "best": math.inf if best is None else best})
