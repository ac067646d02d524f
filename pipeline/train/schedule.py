"""The learning rate by step. Pure."""

from __future__ import annotations

import math

from pipeline.train.config import TrainConfig


def learning_rate(step: int, *, total_steps: int, config: TrainConfig) -> float:
    """The learning rate of step `step` (from 1): a linear rise, then `lr_decay` towards 0.

    The last step's rate is just above 0 for `cosine` and `linear`.
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = (step - config.warmup_steps - 1) / max(1, total_steps - config.warmup_steps)
    factors = {
        "cosine": 0.5 + 0.5 * math.cos(math.pi * done),
        "linear": 1.0 - done,
        "constant": 1.0,
    }
    return config.learning_rate * factors[config.lr_decay]
