"""Cross-entropy of the output head, computed in chunks of rows.

A batch's logits are larger than anything else in the model (65,888 ids per position at the blog's sizes).
Here each chunk of rows computes its loss and gradients at once, and its logits are freed.

Shapes: M rows, D model width, V ids of the joint vocabulary, W of them in a part, R rows of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.dalle.products import multiply

# 40 MiB of float32. Not smaller: every chunk adds to the gradient of all weights, which takes as long as the
# products of some 30 rows.
MAX_LOGITS = 10 * 2**20


@dataclass(frozen=True)
class Part:
    """Rows whose targets are in one range of the vocabulary: `targets_M` count from `low`."""

    x_MD: Tensor
    targets_M: Tensor
    low: int
    high: int


def split_cross_entropy(
    parts: Sequence[Part], weight_VD: Tensor, bias_V: Tensor
) -> tuple[Tensor, ...]:
    """The mean cross-entropy of each part, float32, in nats per row.

    A row has logits only for its part's ids; the parts divide the vocabulary, in order. Gradients can be
    computed only once.
    """
    ends = [0, *(part.high for part in parts)]
    assert [part.low for part in parts] == ends[:-1]
    assert ends[-1] == len(bias_V)
    losses: tuple[Tensor, ...] = _SplitCrossEntropy.apply(
        [(part.low, part.high) for part in parts],
        [part.targets_M for part in parts],
        weight_VD,
        bias_V,
        *(part.x_MD for part in parts),
    )
    return losses


class _SplitCrossEntropy(torch.autograd.Function):
    """Forward computes the gradients of each part's summed loss; backward scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        bounds: list[tuple[int, int]],
        targets: list[Tensor],
        weight_VD: Tensor,
        bias_V: Tensor,
        *rows: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.bounds, ctx.counts = bounds, [len(targets_M) for targets_M in targets]
        ctx.grads = None
        if any(ctx.needs_input_grad):
            ctx.grads = [
                torch.empty_like(weight_VD),  # every part writes its own range
                torch.zeros_like(bias_V),
                *(torch.empty_like(x_MD) for x_MD in rows),
            ]
        losses = []
        for part, ((low, high), targets_M, x_MD) in enumerate(
            zip(bounds, targets, rows, strict=True)
        ):
            grads = None
            if ctx.grads is not None:
                weight_grad, bias_grad, x_grad = ctx.grads[0], ctx.grads[1], ctx.grads[2 + part]
                grads = (weight_grad[low:high], bias_grad[low:high], x_grad)
            total = _sum_losses(x_MD, targets_M, weight_VD[low:high], bias_V[low:high], grads)
            losses.append(total / len(targets_M))
        return tuple(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *shares: Tensor) -> tuple[Any, ...]:
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            raise RuntimeError("The gradients of split_cross_entropy can be computed only once.")
        weight_grad, bias_grad, *row_grads = grads
        for share, count, (low, high), row_grad in zip(
            shares, ctx.counts, ctx.bounds, row_grads, strict=True
        ):
            for grad in (weight_grad[low:high], bias_grad[low:high], row_grad):
                grad.mul_(share / count)
        return None, None, weight_grad, bias_grad, *row_grads


def _sum_losses(
    x_MD: Tensor,
    targets_M: Tensor,
    weight_WD: Tensor,
    bias_W: Tensor,
    grads: tuple[Tensor, Tensor, Tensor] | None,
) -> Tensor:
    """The summed loss of a part; writes its gradients to `grads` (weight, bias, rows)."""
    total = torch.zeros((), device=x_MD.device)
    device = x_MD.device.type
    mixed = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if mixed else weight_WD.dtype
    weight_WD, bias_W = weight_WD.to(dtype), bias_W.to(dtype)  # once, not for each chunk
    size = _chunk_size(len(x_MD), len(bias_W))
    for start in range(0, len(x_MD), size):
        x_RD = x_MD[start : start + size].to(dtype)
        target_R1 = targets_M[start : start + size, None]
        logprobs_RW = multiply(x_RD, weight_WD, bias_W).log_softmax(dim=-1, dtype=torch.float32)
        total -= logprobs_RW.gather(1, target_R1).sum()
        if grads is None:
            continue
        errors_RW = logprobs_RW.exp_()
        errors_RW.scatter_add_(1, target_R1, errors_RW.new_full(target_R1.shape, -1.0))
        weight_grad, bias_grad, x_grad = grads
        bias_grad += errors_RW.sum(dim=0)
        errors_RW = errors_RW.to(dtype)
        x_grad[start : start + size] = multiply(errors_RW, weight_WD.T)
        if weight_grad.dtype == dtype:
            weight_grad.addmm_(errors_RW.T, x_RD, beta=min(start, 1))
        elif start == 0:
            weight_grad.copy_(errors_RW.T @ x_RD)
        else:
            weight_grad += errors_RW.T @ x_RD
    return total


def _chunk_size(rows: int, width: int) -> int:
    """Rows per chunk: the fewest chunks of about equal size that MAX_LOGITS allows."""
    most = max(1, MAX_LOGITS // width)
    return -(-rows // -(-rows // most)) if rows else most
