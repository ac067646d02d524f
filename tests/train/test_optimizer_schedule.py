"""The learning rate: DeepSpeed's curve, the reference's plateau."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pipeline.train.optimizer import Plateau, learning_rate
from tests.helpers.training import train_config


def deepspeed_warmup_decay(iteration: int, total: int, warmup: int, kind: str) -> float:
    """The factor of `WarmupDecayLR` with warmup_min_lr=0, from its documentation."""
    warmup = max(2, warmup)
    if iteration < warmup:
        return math.log(iteration + 1) / math.log(warmup) if kind == "log" else iteration / warmup
    return max(0.0, float(total - iteration) / float(max(1.0, total - warmup)))


@pytest.mark.parametrize("kind", ["log", "linear"])
@pytest.mark.parametrize(("total", "warmup"), [(100, 10), (50, 2), (1000, 1000)])
def test_the_linear_decay_is_the_curve_of_deepspeed(kind: str, total: int, warmup: int) -> None:
    config = train_config(
        learning_rate=3e-4,
        warmup_steps=warmup,
        warmup_type=kind,
        lr_decay="linear",
    )
    ours = [learning_rate(step, total_steps=total, config=config) for step in range(1, total + 1)]
    theirs = [3e-4 * deepspeed_warmup_decay(i, total, warmup, kind) for i in range(total)]
    assert ours == pytest.approx(theirs, rel=1e-12)


def test_a_single_step_of_warmup_divides_by_nothing() -> None:
    config = train_config(warmup_steps=1, warmup_type="log", lr_decay="linear")
    assert learning_rate(1, total_steps=3, config=config) == 0
    assert learning_rate(2, total_steps=3, config=config) == config.optimizer.learning_rate


def test_without_warmup_it_starts_at_the_peak() -> None:
    for decay in ("linear", "cosine", "constant", "plateau"):
        config = train_config(warmup_steps=0, lr_decay=decay)
        assert learning_rate(1, total_steps=10, config=config) == config.optimizer.learning_rate


def test_the_plateau_halves_as_the_reference_does_also_when_resumed() -> None:
    losses = [1.0] * 40 + [0.5] * 30
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-4)
    reference = ReduceLROnPlateau(
        optimizer, mode="min", factor=0.5, patience=10, cooldown=10, min_lr=1e-6
    )
    plateau = Plateau(3e-4)
    factors = []
    for loss in losses:
        reference.step(loss)
        plateau.end_epoch(loss)
        factors.append(plateau.factor)
        assert plateau.factor == optimizer.param_groups[0]["lr"] / 3e-4
        state = json.loads(json.dumps(plateau.as_dict(), allow_nan=False))
        plateau = Plateau(3e-4)
        plateau.restore(state)
    assert sorted(set(factors)) == [0.125, 0.25, 0.5, 1.0]


def test_a_plateau_that_has_seen_nothing_is_plain_json() -> None:
    plateau = Plateau(1.0)
    plateau.restore(json.loads(json.dumps(plateau.as_dict(), allow_nan=False)))
    assert plateau.factor == 1.0


@pytest.mark.parametrize("decay", ["cosine", "linear", "constant", "plateau"])
def test_the_rate_after_the_warmup_follows_its_curve(decay: Any) -> None:
    config = train_config(learning_rate=2.0, warmup_steps=4, lr_decay=decay)
    rates = [learning_rate(step, total_steps=12, config=config) for step in range(1, 14)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    left = [1 - n / 8 for n in range(9)]
    curve = {
        "linear": [2 * share for share in left],
        "cosine": [1 - math.cos(math.pi * share) for share in left],
    }.get(decay, [2.0] * 9)
    assert rates[4:] == pytest.approx(curve)
