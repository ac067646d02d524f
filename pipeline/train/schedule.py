"""The learning rate by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.train.config import TrainConfig


def learning_rate(step: float, *, total_steps: float, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 1): a rise over `warmup_steps`, then `lr_decay` towards 0.

    Steps are those of `extent`, fractions where the run goes on with other batches than it began with.
    What `plateau` takes off is not in it. The last step's rate is just above 0 for `cosine` and
    `linear`.
    """
    iteration, warmup = step - 1, config.warmup_steps
    if iteration < warmup:
        return config.learning_rate * warmup_factor(iteration, warmup, config.warmup_type)
    left = max(0.0, (total_steps - iteration) / max(1, total_steps - warmup))
    factors = {"cosine": 0.5 - 0.5 * math.cos(math.pi * left), "linear": left}
    return config.learning_rate * factors.get(config.lr_decay, 1.0)


def warmup_factor(iteration: float, warmup_steps: int, kind: str) -> float:
    """The share, 0 to 1, of the highest rate in iteration `iteration` (from 0) of the warm-up.

    With the linear decay this is the curve of DeepSpeed's `WarmupDecayLR` with `warmup_min_lr` 0
    (deepspeed/runtime/lr_schedules.py), whose `warmup_type` is log unless told otherwise.
    """
    if kind == "log":
        return math.log(iteration + 1) / math.log(max(2, warmup_steps))
    return iteration / warmup_steps


class Plateau:
    """Halves the learning rate after epochs without gain, as DALLE-pytorch's train_dalle.py does.

    torch's ReduceLROnPlateau with that script's constants, told the last loss of each epoch.
    """

    def __init__(self, learning_rate: float) -> None:
        self._top = learning_rate
        stand_in = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
        self._scheduler = ReduceLROnPlateau(
            stand_in, mode="min", factor=0.5, patience=10, cooldown=10, min_lr=1e-6
        )

    @property
    def factor(self) -> float:
        """What is left of the learning rate, 0 to 1."""
        rate: float = self._scheduler.optimizer.param_groups[0]["lr"]
        return rate / self._top if self._top else 1.0

    def end_epoch(self, loss: float) -> None:
        """Take note of an epoch's last loss."""
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
