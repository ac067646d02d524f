"""The gated feed-forward network, and dropout.

Shapes: B samples, L positions, D model width, F width of the hidden layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.linear import Linear
from pipeline.models.dalle.operators import gelu_backward

FEED_FORWARD_MULT = 4
# Up to this rate a CPU is faster at drawing the dropped positions than a number for every position: 1 ms
# against 9 ms for 1 % of 3 million.
RARE = 0.1


class FeedForward(nn.Module):
    """A gated (GEGLU) two-layer network on each position; several layers may share its weights."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.to_hidden = Linear(config.dim, 2 * FEED_FORWARD_MULT * config.dim)
        self.dropout = Dropout(config.ff_dropout)
        self.to_out = Linear(FEED_FORWARD_MULT * config.dim, config.dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Transform each position independently."""
        value_BLF, gate_BLF = self.to_hidden.chunks(x_BLD, 2)
        return self.to_out(self.dropout(_Gate.apply(value_BLF, gate_BLF)))


class _Gate(torch.autograd.Function):
    """value · gelu(gate); keeps its two inputs for the gradients, but not gelu(gate).

    These are a layer's widest tensors: a third of what a training pass keeps in memory.
    """

    @staticmethod
    def forward(ctx: Any, value_BLF: Tensor, gate_BLF: Tensor) -> Tensor:
        ctx.save_for_backward(value_BLF, gate_BLF)
        return F.gelu(gate_BLF).mul_(value_BLF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BLF: Tensor) -> tuple[Tensor, Tensor]:
        value_BLF, gate_BLF = ctx.saved_tensors
        gate_grad_BLF = gelu_backward(grad_BLF * value_BLF, gate_BLF)
        return F.gelu(gate_BLF).mul_(grad_BLF), gate_grad_BLF


class Dropout(nn.Module):
    """Dropout with rate `rate`, with a faster path for low rates on a CPU."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """A tensor of the same shape."""
        if not self.training or self.rate == 0:
            return x
        if x.device.type != "cpu" or self.rate > RARE or torch.compiler.is_compiling():
            return F.dropout(x, self.rate)
        scaled = (x / (1 - self.rate)).view(-1)
        return scaled.index_fill_(0, _rare_indices(x.numel(), self.rate), 0).view(x.shape)


def _rare_indices(count: int, rate: float) -> Tensor:
    """Indices below `count`, each included independently with probability `rate`; some are repeated.

    If a Poisson number of indices is drawn with replacement, each index is drawn a Poisson number of times,
    independently of the others, and at least once with probability 1 - exp(-mean).
    """
    mean = torch.tensor(-math.log1p(-rate) * count, dtype=torch.float64)
    return torch.randint(count, (int(torch.poisson(mean)),))
