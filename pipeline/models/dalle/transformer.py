"""The causal transformer inside DALL·E: pre-norm, GEGLU, LayerScale, optionally reversible.

The modules follow DALLE-pytorch's `transformer.py` and `reversible.py` (version 1.6.6), so that checkpoints
can be converted by renaming.

Shapes: B samples, L positions, D model width, C channels that token shift moves, R rotated channels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.dalle.attention import Attention, KeyValueCache, Past, Pattern, Turn
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.feed_forward import FeedForward
from pipeline.models.dalle.rotary import rotary_angles
from pipeline.models.dalle.token_shift import TokenShift

Change = Callable[[Tensor], Tensor]


class Branch(nn.Module):
    """Norm and LayerScale around a layer's attention or feed-forward."""

    def __init__(self, config: DalleConfig, layer: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.dim)
        self.norm_out = nn.LayerNorm(config.dim) if config.sandwich_norm else nn.Identity()
        self.scale = nn.Parameter(torch.full((config.dim,), initial_layer_scale(layer)))

    def forward(self, residual_BLD: Tensor, x_BLD: Tensor, change: Change) -> Tensor:
        """residual + scale · norm_out(change(norm(x)))."""
        return torch.addcmul(residual_BLD, self.norm_out(change(self.norm(x_BLD))), self.scale)


class Layer(nn.Module):
    """The two branches of a layer."""

    def __init__(self, config: DalleConfig, layer: int) -> None:
        super().__init__()
        self.reversible = config.reversible
        self.attention = Branch(config, layer)
        self.feed_forward = Branch(config, layer)

    def forward(
        self, first_BLD: Tensor, second_BLD: Tensor, attend: Change, feed_forward: Change
    ) -> tuple[Tensor, Tensor]:
        """Update both streams; without `reversible` there is one, passed as both."""
        first_BLD = self.attention(first_BLD, second_BLD, attend)
        if self.reversible:
            return first_BLD, self.feed_forward(second_BLD, first_BLD, feed_forward)
        out_BLD = self.feed_forward(first_BLD, first_BLD, feed_forward)
        return out_BLD, out_BLD


class Block(NamedTuple):
    """The modules of a layer. Without its number, one compiled graph fits all layers of a kind."""

    layer: Layer
    attention: Attention
    feed_forward: FeedForward
    pattern: Pattern
    shift: TokenShift | None


RunBlock = Callable[[Block, Tensor, Tensor, Turn | None, Past | None], tuple[Tensor, Tensor]]


def run_block(
    block: Block,
    first_BLD: Tensor,
    second_BLD: Tensor,
    turn: Turn | None,
    past: Past | None,
) -> tuple[Tensor, Tensor]:
    """Both streams after a layer; `turn` are the cosines and sines of the positions' rotary angles."""

    def attend(x_BLD: Tensor) -> Tensor:
        x_BLD = _shifted(x_BLD, block.shift, past, 0)
        return block.attention(x_BLD, block.pattern, turn=turn, past=past)

    def feed_forward(x_BLD: Tensor) -> Tensor:
        return block.feed_forward(_shifted(x_BLD, block.shift, past, 1))

    streams: tuple[Tensor, Tensor] = block.layer(first_BLD, second_BLD, attend, feed_forward)
    return streams


def _shifted(x_BLD: Tensor, shift: TokenShift | None, past: Past | None, branch: int) -> Tensor:
    """After token shift; `branch` is 0 for a layer's attention and 1 for its feed-forward."""
    if shift is None:
        return x_BLD
    if past is None:
        return shift(x_BLD)
    rows = past.cache.extend_rows(2 * past.layer + branch, x_BLD[..., : shift.moved])
    return shift(x_BLD, rows, past.cache.length)


class Transformer(nn.Module):
    """`depth` layers; the final norm belongs to the output heads.

    `reversible` has two streams, one updated by attention and one by the feed-forwards; the output is their
    mean. With `checkpointing` a training pass keeps only the inputs of each layer and recomputes the rest
    for the gradients: less memory, a third more time.
    """

    angles_LR: Tensor

    def __init__(self, config: DalleConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = config.reversible
        attention_of, feed_forward_of = config.layer_attn_ids, config.layer_ff_ids
        self.attentions = nn.ModuleList(Attention(config) for _ in set(attention_of))
        self.feed_forwards = nn.ModuleList(FeedForward(config) for _ in set(feed_forward_of))
        self.layers = nn.ModuleList(Layer(config, layer) for layer in range(config.depth))
        self.patterns = nn.ModuleDict(
            {kind: Pattern(kind, config) for kind in sorted(set(config.layer_types))}
        )
        self.shift = TokenShift(config) if config.shift_tokens else None
        if config.rotary_emb:
            self.register_buffer("angles_LR", rotary_angles(config))
        self._attention_of = number_by_first_use(attention_of)
        self._feed_forward_of = number_by_first_use(feed_forward_of)
        self.run_block: RunBlock = run_block  # or compiled

    def forward(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Run all layers; with a cache, only over the new positions, which are added to it."""
        length = x_BLD.shape[1]
        turn = self._turn(cache, length)
        # Two tensors, or the first layer would need a compiled graph of its own.
        first_BLD, second_BLD = x_BLD, x_BLD.view_as(x_BLD) if self.config.reversible else x_BLD
        for layer in range(self.config.depth):
            past = None if cache is None else Past(cache, layer)
            first_BLD, second_BLD = self._run_layer(layer, first_BLD, second_BLD, turn, past)
        if cache is not None:
            cache.length += length
        return (first_BLD + second_BLD) / 2 if self.config.reversible else second_BLD

    def new_cache(self, *, batch_size: int, max_length: int) -> KeyValueCache:
        """An empty cache for `batch_size` sequences of at most `max_length` positions."""
        config, like = self.config, next(self.parameters())
        shape = (batch_size, config.heads, max_length, config.dim_head)
        # On a CPU, attention from a single position is 2 to 3 times slower in bf16 than in fp32 (torch 2.13).
        dtype = torch.float32 if like.device.type == "cpu" else like.dtype
        moved = self.shift.moved if self.shift else 0
        return KeyValueCache(
            max_length=max_length,
            keys=[like.new_empty(shape, dtype=dtype) for _ in range(config.depth)],
            values=[like.new_empty(shape, dtype=dtype) for _ in range(config.depth)],
            rows=[
                like.new_zeros(batch_size, max_length + 1, moved)
                for _ in range(2 * config.depth if self.shift else 0)
            ],
        )

    def block(self, layer: int) -> Block:
        """The modules of a layer, some of which may be shared with other layers."""
        return Block(
            layer=cast("Layer", self.layers[layer]),
            attention=cast("Attention", self.attentions[self._attention_of[layer]]),
            feed_forward=cast("FeedForward", self.feed_forwards[self._feed_forward_of[layer]]),
            pattern=cast("Pattern", self.patterns[self.config.layer_types[layer]]),
            shift=self.shift,
        )

    def _run_layer(
        self,
        layer: int,
        first_BLD: Tensor,
        second_BLD: Tensor,
        turn: Turn | None,
        past: Past | None,
    ) -> tuple[Tensor, Tensor]:
        arguments = (self.block(layer), first_BLD, second_BLD, turn, past)
        if self.checkpointing and self.training and torch.is_grad_enabled():
            streams: tuple[Tensor, Tensor] = checkpoint(
                self.run_block, *arguments, use_reentrant=False
            )
            return streams
        return self.run_block(*arguments)

    def _turn(self, cache: KeyValueCache | None, length: int) -> Turn | None:
        if not self.config.rotary_emb:
            return None
        start = cache.length if cache else 0
        angles_LR = self.angles_LR[start : start + length]
        return angles_LR.cos(), angles_LR.sin()


def number_by_first_use(names: Sequence[Hashable]) -> tuple[int, ...]:
    """The number of each name, counted in order of first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(name, len(numbers)) for name in names)


def initial_layer_scale(layer: int) -> float:
    """The initial value of LayerScale in layer `layer` (from 0).

    Source: "Going deeper with Image Transformers" (arXiv 2103.17239), as DALLE-pytorch applies it.
    """
    if layer < 18:
        return 0.1
    return 1e-5 if layer < 24 else 1e-6
