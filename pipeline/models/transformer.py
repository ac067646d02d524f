"""The causal transformer inside DALL·E: pre-norm, GEGLU, LayerScale, a key/value cache. Floor 3.

The parts and the names of their parameters follow DALLE-pytorch's `transformer.py` and
`attention.py` (version 1.6.6), so that checkpoints can be converted by renaming.

Shapes: B samples, L positions, D model width, H heads, K width of a head, S cached positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEED_FORWARD_MULT = 4


@dataclass
class KeyValueCache:
    """Keys and values of the positions seen so far, BHSK a layer, room for `max_length`."""

    max_length: int
    keys: list[Tensor]
    values: list[Tensor]
    length: int = 0

    @classmethod
    def empty(cls, *, depth: int, shape: tuple[int, int, int, int], like: Tensor) -> KeyValueCache:
        """Room for `shape` = (B, H, positions, K) in each of `depth` layers, typed as `like`."""
        return cls(
            max_length=shape[2],
            keys=[like.new_empty(shape) for _ in range(depth)],
            values=[like.new_empty(shape) for _ in range(depth)],
        )

    def extend(self, layer: int, key_BHLK: Tensor, value_BHLK: Tensor) -> tuple[Tensor, Tensor]:
        """Store a layer's new positions; return all of its positions so far.

        `length` moves on once a step, after the last layer.
        """
        end = self.length + key_BHLK.shape[2]
        self.keys[layer][:, :, self.length : end] = key_BHLK
        self.values[layer][:, :, self.length : end] = value_BHLK
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def select(self, rows: Tensor) -> KeyValueCache:
        """A cache of its own for each of `rows` (int64 indices of samples, repeats allowed)."""
        return KeyValueCache(
            max_length=self.max_length,
            keys=[key.index_select(0, rows) for key in self.keys],
            values=[value.index_select(0, rows) for value in self.values],
            length=self.length,
        )


class Attention(nn.Module):
    """Causal multi-head attention over all earlier positions."""

    def __init__(self, *, dim: int, heads: int, dim_head: int, dropout: float, layer: int) -> None:
        super().__init__()
        self.heads = heads
        self.layer = layer
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Mix positions. With a cache, `x_BLD` holds the new ones: all of the prompt, or one."""
        # One product a part: the gradients of slices of one product would be copied together again.
        parts = (F.linear(x_BLD, weight) for weight in self.to_qkv.weight.chunk(3))
        query_BHLK, key_BHLK, value_BHLK = (
            part_BLD.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part_BLD in parts
        )
        first_step = cache is None or cache.length == 0
        if cache is not None:
            key_BHLK, value_BHLK = cache.extend(self.layer, key_BHLK, value_BHLK)
        mixed_BHLK = F.scaled_dot_product_attention(
            query_BHLK, key_BHLK, value_BHLK, is_causal=first_step
        )
        return self.dropout(self.to_out(mixed_BHLK.transpose(1, 2).flatten(2)))


class FeedForward(nn.Module):
    """A gated (GEGLU) two-layer network on each position."""

    def __init__(self, *, dim: int, dropout: float) -> None:
        super().__init__()
        self.to_hidden = nn.Linear(dim, 2 * FEED_FORWARD_MULT * dim)
        self.dropout = nn.Dropout(dropout)
        self.to_out = nn.Linear(FEED_FORWARD_MULT * dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """Transform each position by itself."""
        weights, biases = self.to_hidden.weight.chunk(2), self.to_hidden.bias.chunk(2)
        value_BLD, gate_BLD = (F.linear(x_BLD, w, b) for w, b in zip(weights, biases, strict=True))
        return self.to_out(self.dropout(value_BLD * F.gelu(gate_BLD)))


class Block(nn.Module):
    """One layer: attention, then feed-forward, each normed before and scaled per channel after."""

    def __init__(
        self, *, dim: int, attention: Attention, feed_forward: FeedForward, scale: float
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = attention
        self.attention_scale = nn.Parameter(torch.full((dim,), scale))
        self.feed_forward_norm = nn.LayerNorm(dim)
        self.feed_forward = feed_forward
        self.feed_forward_scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Add both parts to the residual stream."""
        mixed_BLD = self.attention(self.attention_norm(x_BLD), cache)
        x_BLD = x_BLD + self.attention_scale * mixed_BLD
        return x_BLD + self.feed_forward_scale * self.feed_forward(self.feed_forward_norm(x_BLD))


class Transformer(nn.Module):
    """`depth` blocks in a row; the final norm belongs to the heads."""

    def __init__(
        self,
        *,
        dim: int,
        depth: int,
        heads: int,
        dim_head: int,
        attn_dropout: float,
        ff_dropout: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dim_head = dim_head
        self.layers = nn.ModuleList(
            Block(
                dim=dim,
                attention=Attention(
                    dim=dim, heads=heads, dim_head=dim_head, dropout=attn_dropout, layer=layer
                ),
                feed_forward=FeedForward(dim=dim, dropout=ff_dropout),
                scale=initial_layer_scale(layer),
            )
            for layer in range(depth)
        )

    def forward(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Run all layers; with a cache, over the new positions only, which it then holds too."""
        length = x_BLD.shape[1]
        for block in self.layers:
            x_BLD = block(x_BLD, cache)
        if cache is not None:
            cache.length += length
        return x_BLD

    def new_cache(self, *, batch_size: int, max_length: int) -> KeyValueCache:
        """An empty cache for `batch_size` sequences of at most `max_length` positions."""
        return KeyValueCache.empty(
            depth=len(self.layers),
            shape=(batch_size, self.heads, max_length, self.dim_head),
            like=next(self.parameters()),
        )


def initial_layer_scale(layer: int) -> float:
    """The value LayerScale starts with in layer `layer` (from 0), by depth.

    Source: "Going deeper with Image Transformers" (arXiv 2103.17239), as DALLE-pytorch applies it.
    """
    if layer < 18:
        return 0.1
    return 1e-5 if layer < 24 else 1e-6
