"""Cross-entropy of the output head, computed in chunks of rows.

A batch's logits are larger than anything else in the model (65,888 ids per position at the blog's sizes).
Here each chunk of rows computes its loss and gradients at once, and its logits are freed.

On CUDA a chunk may take a share of the device's memory, so that a part is one or two chunks: each adds a
product to the gradients of all weights. Rows of logits and chunks are padded to multiples of 8, without which
cuBLAS leaves the tensor cores unused. Padding ids have the logit -∞.

Shapes: M rows, D model width, V ids of the joint vocabulary, W of them in a part, R rows of a chunk.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from pipeline.models.dalle.products import multiply

# 40 MiB of float32. Not smaller: every chunk adds to the gradient of all weights, which takes as long as the
# products of some 30 rows.
MAX_LOGITS = 10 * 2**20
MAX_CUDA_LOGITS = 2**30
# A logit takes 8 bytes in all (bf16, float32, bf16 errors), so a chunk takes at most a 16th of the memory.
CUDA_BYTES_PER_LOGIT = 128
CUDA_MULTIPLE = 8


@dataclass(frozen=True)
class Part:
    """Rows whose targets are in one range of the vocabulary: `targets_M` count from `low`."""

    x_MD: Tensor
    targets_M: Tensor
    low: int
    high: int


def chunk_loss(
    x_RD: Tensor, targets_R1: Tensor, weight_WD: Tensor, bias_W: Tensor, with_errors: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A chunk's summed loss; `with_errors` also its gradients on the logits, and summed over the rows."""
    logits_RW = multiply(x_RD, weight_WD, bias_W)
    logprobs_RW = logits_RW.log_softmax(dim=-1, dtype=torch.float32)
    loss = logprobs_RW.gather(1, targets_R1).sum()
    if not with_errors:
        return loss, None, None
    errors_RW = logprobs_RW.exp_()
    errors_RW.scatter_add_(1, targets_R1, errors_RW.new_full(targets_R1.shape, -1.0))
    return loss, errors_RW.to(x_RD.dtype), errors_RW.sum(dim=0)


ChunkLoss = Callable[
    [Tensor, Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None, Tensor | None]
]


def split_cross_entropy(
    parts: Sequence[Part], weight_VD: Tensor, bias_V: Tensor, of_chunk: ChunkLoss = chunk_loss
) -> tuple[Tensor, ...]:
    """The mean cross-entropy of each part, float32, in nats per row.

    A row has logits only for its part's ids; the parts divide the vocabulary, in order. Gradients can be
    computed only once. `of_chunk` is `chunk_loss`, or what a compiler made of it.
    """
    ends = [0, *(part.high for part in parts)]
    assert [part.low for part in parts] == ends[:-1]
    assert ends[-1] == len(bias_V)
    losses: tuple[Tensor, ...] = _SplitCrossEntropy.apply(
        [(part.low, part.high) for part in parts],
        [part.targets_M for part in parts],
        weight_VD,
        bias_V,
        of_chunk,
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
        of_chunk: ChunkLoss,
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
            head = (weight_VD[low:high], bias_V[low:high])
            total = _sum_losses(x_MD, targets_M, *head, grads, of_chunk)
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
        return None, None, weight_grad, bias_grad, None, *row_grads


def _sum_losses(
    x_MD: Tensor,
    targets_M: Tensor,
    weight_WD: Tensor,
    bias_W: Tensor,
    grads: tuple[Tensor, Tensor, Tensor] | None,
    of_chunk: ChunkLoss,
) -> Tensor:
    """The summed loss of a part; writes its gradients to `grads` (weight, bias, rows)."""
    total = torch.zeros((), device=x_MD.device)
    device = x_MD.device
    mixed = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if mixed else weight_WD.dtype
    weight_WD, bias_W = weight_WD.to(dtype), bias_W.to(dtype)  # once, not for each chunk
    width, multiple = len(bias_W), row_multiple(device)
    if missing := -width % multiple:
        weight_WD = F.pad(weight_WD, (0, 0, 0, missing))
        bias_W = F.pad(bias_W, (0, missing), value=-torch.inf)
    size = _chunk_size(len(x_MD), len(bias_W), most=most_logits(device), multiple=multiple)
    for start in range(0, len(x_MD), size):
        x_RD = x_MD[start : start + size].to(dtype)
        targets_R1 = targets_M[start : start + size, None]
        loss, errors_RW, errors_W = of_chunk(x_RD, targets_R1, weight_WD, bias_W, grads is not None)
        total -= loss
        if grads is None:
            continue
        assert errors_RW is not None
        assert errors_W is not None
        weight_grad, bias_grad, x_grad = grads
        bias_grad += errors_W[:width]
        x_grad[start : start + size] = multiply(errors_RW, weight_WD.T)
        errors_WR = errors_RW[:, :width].T
        if weight_grad.dtype == dtype:
            weight_grad.addmm_(errors_WR, x_RD, beta=min(start, 1))
        elif start == 0:
            weight_grad.copy_(errors_WR @ x_RD)
        else:
            weight_grad += errors_WR @ x_RD
    return total


def row_multiple(device: torch.device) -> int:
    """What the width of the logits and the rows of a chunk are padded to a multiple of."""
    return CUDA_MULTIPLE if device.type == "cuda" else 1


def most_logits(device: torch.device) -> int:
    """The most logits of a chunk on this device."""
    return MAX_LOGITS if device.type != "cuda" else most_cuda_logits(_memory(device))


def most_cuda_logits(memory_bytes: int) -> int:
    """The most logits of a chunk on a CUDA device with so much memory."""
    return max(MAX_LOGITS, min(MAX_CUDA_LOGITS, memory_bytes // CUDA_BYTES_PER_LOGIT))


@functools.cache
def _memory(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


def _chunk_size(rows: int, width: int, *, most: int, multiple: int) -> int:
    """Rows per chunk: the fewest chunks of about equal size that `most` logits allow.

    The size is a multiple of `multiple`, or less than that only because a chunk must not be larger.
    """
    fitting = max(1, most // width)
    size = -(-rows // -(-rows // fitting)) if rows else fitting
    if fitting < multiple:
        return size
    return min(-(-size // multiple), fitting // multiple) * multiple
