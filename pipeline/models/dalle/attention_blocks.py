"""Attention for training in bf16 on a CPU, one block of queries at a time.

oneDNN multiplies whole blocks, and keys after a block's last query are skipped. For 32 heads of width 64
and 352 positions, forward and backward take 22 ms of a core; torch's own kernel takes 54 ms (torch 2.13,
AVX-512 with bf16; in fp32 44 against 54 ms). The softmax output is kept for the gradients, so memory grows
with the square of the length: use it for short sequences only.

Shapes: B samples, H heads, N = B · H, L positions, K width of a head, R queries of a block, S keys that the
block may attend to.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.models.dalle.operators import softmax_backward

ROWS = 96
MAX_POSITIONS = 512


def fits_blocks(query_BHLK: Tensor, key_BHSK: Tensor) -> bool:
    """Whether these are complete, short sequences for training in bf16 on a CPU."""
    return (
        not torch.compiler.is_compiling()
        and query_BHLK.device.type == "cpu"
        and query_BHLK.dtype == torch.bfloat16
        and query_BHLK.requires_grad
        and query_BHLK.shape == key_BHSK.shape
        and query_BHLK.shape[2] <= MAX_POSITIONS
    )


def attend_in_blocks(
    query_BHLK: Tensor, key_BHLK: Tensor, value_BHLK: Tensor, mask_LL: Tensor | None
) -> Tensor:
    """softmax(query · key / √K) · value, over the keys that the mask allows.

    `mask_LL` (bool) must be causal; None allows all earlier keys. Gradients can be computed only once.
    """
    mixed_BHLK: Tensor = _Blocks.apply(query_BHLK, key_BHLK, value_BHLK, mask_LL)
    return mixed_BHLK


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_BHLK: Tensor,
        key_BHLK: Tensor,
        value_BHLK: Tensor,
        mask_LL: Tensor | None,
    ) -> Tensor:
        heads = query_BHLK.shape[:2]
        query_NLK = (query_BHLK * query_BHLK.shape[-1] ** -0.5).flatten(0, 1)
        key_NLK, value_NLK = key_BHLK.flatten(0, 1), value_BHLK.flatten(0, 1)
        mixed_BHLK = _empty_like_rows(query_BHLK)
        shares = []
        for low, high in _blocks(query_NLK.shape[1]):
            scores_NRS = query_NLK[:, low:high] @ key_NLK[:, :high].transpose(1, 2)
            _hide(scores_NRS, mask_LL, low)
            shares.append(scores_NRS.softmax(dim=-1))
            mixed_BHLK[:, :, low:high] = (shares[-1] @ value_NLK[:, :high]).unflatten(0, heads)
        ctx.save_for_backward(query_NLK, key_NLK, value_NLK, *shares)
        return mixed_BHLK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHLK: Tensor) -> tuple[Tensor | None, ...]:
        query_NLK, key_NLK, value_NLK, *shares = ctx.saved_tensors
        grad_NLK, heads = grad_BHLK.flatten(0, 1), grad_BHLK.shape[:2]
        query_grad_BHLK = _empty_like_rows(grad_BHLK)
        key_grad_NLK, value_grad_NLK = torch.zeros_like(key_NLK), torch.zeros_like(value_NLK)
        for (low, high), shares_NRS in zip(_blocks(query_NLK.shape[1]), shares, strict=True):
            grad_NRK = grad_NLK[:, low:high]
            value_grad_NLK[:, :high] += shares_NRS.transpose(1, 2) @ grad_NRK
            scores_grad_NRS = softmax_backward(
                grad_NRK @ value_NLK[:, :high].transpose(1, 2), shares_NRS
            )
            key_grad_NLK[:, :high] += scores_grad_NRS.transpose(1, 2) @ query_NLK[:, low:high]
            query_grad_NRK = scores_grad_NRS @ key_NLK[:, :high]
            query_grad_BHLK[:, :, low:high] = query_grad_NRK.unflatten(0, heads)
        query_grad_BHLK *= query_NLK.shape[-1] ** -0.5
        return (
            query_grad_BHLK,
            key_grad_NLK.unflatten(0, heads),
            value_grad_NLK.unflatten(0, heads),
            None,
        )


def _blocks(length: int) -> list[tuple[int, int]]:
    return list(pairwise([*range(0, length, ROWS), length]))


def _hide(scores_NRS: Tensor, mask_LL: Tensor | None, low: int) -> None:
    """Set the scores of masked keys to -inf."""
    high = scores_NRS.shape[-1]
    if mask_LL is not None:
        scores_NRS.masked_fill_(~mask_LL[low:high, :high], -torch.inf)
    else:  # all keys before the block are visible
        later_RR = torch.ones(high - low, high - low, dtype=torch.bool).triu_(1)
        scores_NRS[:, :, low:].masked_fill_(later_RR, -torch.inf)


def _empty_like_rows(x_BHLK: Tensor) -> Tensor:
    """An empty tensor of the same shape, laid out by position, as the products before and after need it."""
    samples, heads, length, width = x_BHLK.shape
    return x_BHLK.new_empty(samples, length, heads, width).transpose(1, 2)
