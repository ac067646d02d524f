"""The gate's gradients, and the fast path of dropout."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from pipeline.models.dalle.feed_forward import Dropout, _Gate


def test_the_gate_is_geglu_with_its_gradients() -> None:
    torch.manual_seed(0)
    value, gate = (torch.randn(3, 5, requires_grad=True, dtype=torch.float64) for _ in range(2))
    torch.testing.assert_close(_Gate.apply(value, gate), value * F.gelu(gate))
    torch.autograd.gradcheck(_Gate.apply, (value, gate))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(rate: float) -> None:
    torch.manual_seed(0)
    count = 200_000
    ones = torch.ones(20, count // 20, requires_grad=True)
    dropped = Dropout(rate).train()(ones)
    zeros = int((dropped == 0).sum())
    assert abs(zeros - rate * count) < 5 * (rate * (1 - rate) * count) ** 0.5
    torch.testing.assert_close(dropped[dropped != 0][0].item(), 1 / (1 - rate))
    dropped.sum().backward()
    torch.testing.assert_close(ones.grad, dropped.detach())


def test_places_are_dropped_apart_from_each_other() -> None:
    """Pairs of neighbours go together as often as chance has it, and every place as often as any."""
    torch.manual_seed(0)
    dropout, rounds = Dropout(0.1).train(), 4000
    gone = torch.stack([dropout(torch.ones(50)) == 0 for _ in range(rounds)]).double()
    assert (gone.mean(0) - 0.1).abs().max() < 5 * (0.09 / rounds) ** 0.5
    together = (gone[:, 1:] * gone[:, :-1]).mean()
    assert abs(together - 0.01) < 5 * (0.01 / (rounds * 49)) ** 0.5


def test_the_same_seed_drops_the_same() -> None:
    dropout = Dropout(0.05).train()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(dropout(torch.ones(1000)))
    assert torch.equal(*results)
    assert not torch.equal(results[0], dropout(torch.ones(1000)))


def test_nothing_is_dropped_outside_training() -> None:
    x = torch.ones(100)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0).train()(x), x)
