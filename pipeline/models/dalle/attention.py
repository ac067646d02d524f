"""Masked causal attention, and its key-value cache.

Names of the parameters follow DALLE-pytorch's `attention.py` (version 1.6.6).

Shapes: B samples, L positions, D model width, H heads, K width of a head, S all positions so far.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.models.dalle.attention_blocks import attend_in_blocks, fits_blocks
from pipeline.models.dalle.attention_kernels import FlexMask, attend_flex, attend_masked, flex_mask
from pipeline.models.dalle.attention_masks import attention_mask, causal_prefix
from pipeline.models.dalle.attention_types import AttentionType
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.feed_forward import Dropout
from pipeline.models.dalle.linear import Linear
from pipeline.models.dalle.rotary import rotate

# Queries per call: larger chunks mean fewer calls, but more keys that the first queries can't see.
MASKED_ROWS = 256

Turn = tuple[Tensor, Tensor]


@dataclass
class KeyValueCache:
    """The state that layers keep of the positions so far, with room for `max_length`.

    Keys and values are BHSK, one of each per layer; `rows` BSC are the inputs of token shift, two per layer,
    none without it.
    """

    max_length: int
    keys: list[Tensor]
    values: list[Tensor]
    rows: list[Tensor] = field(default_factory=list)
    length: int = 0

    def extend(self, layer: int, key_BHLK: Tensor, value_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new positions; returns all of its positions so far.

        `length` is advanced once per step, after the last layer.
        """
        end = self.length + key_BHLK.shape[2]
        self.keys[layer][:, :, self.length : end] = key_BHLK
        self.values[layer][:, :, self.length : end] = value_BHLK
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def extend_rows(self, branch: int, new_BLC: Tensor) -> Tensor:
        """Store new inputs of token shift; returns those of all positions, after a row of zeros."""
        end = self.length + new_BLC.shape[1] + 1
        self.rows[branch][:, self.length + 1 : end] = new_BLC
        return self.rows[branch][:, :end]

    def select(self, samples: Tensor) -> KeyValueCache:
        """A copy of the cache for `samples` (int64 indices, repeats allowed)."""
        keys, values, rows = (
            [tensor.index_select(0, samples) for tensor in tensors]
            for tensors in (self.keys, self.values, self.rows)
        )
        return KeyValueCache(self.max_length, keys, values, rows, self.length)


class Past(NamedTuple):
    """The positions before those of this pass: the cache, and which layer's part of it."""

    cache: KeyValueCache
    layer: int


class Pattern(nn.Module):
    """The positions that one kind of attention attends to."""

    mask_LL: Tensor | None

    def __init__(self, kind: AttentionType, config: DalleConfig) -> None:
        super().__init__()
        self.kind = kind
        self.flex: FlexMask | None = None
        mask = attention_mask(kind, config)
        self.prefix = config.total_seq_len if mask is None else causal_prefix(mask)
        self.register_buffer("mask_LL", mask, persistent=False)

    def use_flex(self, config: DalleConfig) -> None:
        """Use FlexAttention for complete sequences in compiled code."""
        if self.mask_LL is not None:
            self.flex = flex_mask(self.kind, config, self.mask_LL)

    def attend(self, query_BHLK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor) -> Tensor:
        """Attention output for queries that are the last of all positions so far."""
        start, end = key_BHSK.shape[2] - query_BHLK.shape[2], key_BHSK.shape[2]
        if self.flex is not None and torch.compiler.is_compiling() and self._is_whole(start, end):
            return attend_flex(query_BHLK, key_BHSK, value_BHSK, self.flex)
        if fits_blocks(query_BHLK, key_BHSK):
            mask = None if end <= self.prefix else self.mask_LL
            return attend_in_blocks(query_BHLK, key_BHSK, value_BHSK, mask)
        if start == 0 and end <= self.prefix:
            return F.scaled_dot_product_attention(query_BHLK, key_BHSK, value_BHSK, is_causal=True)
        bounds = sorted({start, *range(max(self.prefix, start), end, MASKED_ROWS), end})
        parts = [
            self._attend_rows(
                query_BHLK[:, :, low - start : high - start],
                key_BHSK[:, :, :high],
                value_BHSK[:, :, :high],
            )
            for low, high in pairwise(bounds)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _attend_rows(self, query_BHLK: Tensor, key_BHSK: Tensor, value_BHSK: Tensor) -> Tensor:
        start, end = key_BHSK.shape[2] - query_BHLK.shape[2], key_BHSK.shape[2]
        whole = start == 0 and end <= self.prefix
        mask = None if whole else self._mask(start, end, key_BHSK.device)
        if mask is not None and mask.device.type == "cuda":
            return attend_masked(query_BHLK, key_BHSK, value_BHSK, mask)
        return F.scaled_dot_product_attention(
            query_BHLK, key_BHSK, value_BHSK, attn_mask=mask, is_causal=whole
        )

    def _is_whole(self, start: int, end: int) -> bool:
        return start == 0 and self.mask_LL is not None and end == len(self.mask_LL)

    def _mask(self, start: int, end: int, device: torch.device) -> Tensor | None:
        """Rows `start` to `end` of the mask; None if they see everything."""
        if self.mask_LL is not None:
            return self.mask_LL[start:end, :end]
        if end - start == 1:
            return None
        return torch.ones(end - start, end, dtype=torch.bool, device=device).tril(start)


class Attention(nn.Module):
    """Multi-head attention; several layers may share its weights."""

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.heads = config.heads
        inner = config.heads * config.dim_head
        self.to_qkv = Linear(config.dim, 3 * inner, bias=False)
        self.to_out = Linear(inner, config.dim)
        self.dropout = Dropout(config.attn_dropout)

    def forward(
        self,
        x_BLD: Tensor,
        pattern: Pattern,
        *,
        turn: Turn | None,
        past: Past | None,
    ) -> Tensor:
        """Attend over the positions. With a past, `x_BLD` holds only the new ones."""
        query_BHLK, key_BHLK, value_BHLK = (
            part_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part_BLD in self.to_qkv.chunks(x_BLD, 3)
        )
        if turn is not None:
            query_BHLK, key_BHLK, value_BHLK = (
                rotate(part, turn) for part in (query_BHLK, key_BHLK, value_BHLK)
            )
        if past is not None:
            key_BHLK, value_BHLK = past.cache.extend(past.layer, key_BHLK, value_BHLK)
            query_BHLK = query_BHLK.to(key_BHLK.dtype)
        mixed_BHLK = pattern.attend(query_BHLK, key_BHLK, value_BHLK)
        return self.dropout(self.to_out(mixed_BHLK.transpose(1, 2).flatten(2).to(x_BLD.dtype)))
