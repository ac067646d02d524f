"""The causal transformer inside DALL·E: pre-norm, GEGLU, LayerScale, optionally reversible.

The modules follow DALLE-pytorch's `transformer.py` and `reversible.py` (version 1.6.6), so that checkpoints
can be converted by renaming.

Shapes: B samples, L positions, D model width, C channels that token shift moves, R rotated channels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipeline.models.dalle.attention import Attention, KeyValueCache, Pattern, Turn
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


@dataclass(frozen=True)
class Step:
    """One forward pass: the rotary angles of its positions, and the cache of those before them."""

    turn: Turn | None
    cache: KeyValueCache | None

    @property
    def start(self) -> int:
        """The first of the pass's positions."""
        return self.cache.length if self.cache else 0


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

    def forward(self, x_BLD: Tensor, cache: KeyValueCache | None = None) -> Tensor:
        """Run all layers; with a cache, only over the new positions, which are added to it."""
        length = x_BLD.shape[1]
        step = Step(turn=self._turn(cache, length), cache=cache)
        first_BLD = second_BLD = x_BLD
        for layer in range(self.config.depth):
            first_BLD, second_BLD = self._run_layer(layer, first_BLD, second_BLD, step)
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

    def _run_layer(
        self, layer: int, first_BLD: Tensor, second_BLD: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        if self.checkpointing and self.training and torch.is_grad_enabled():
            streams: tuple[Tensor, Tensor] = checkpoint(
                self._layer, layer, first_BLD, second_BLD, step, use_reentrant=False
            )
            return streams
        return self._layer(layer, first_BLD, second_BLD, step)

    def _layer(
        self, layer: int, first_BLD: Tensor, second_BLD: Tensor, step: Step
    ) -> tuple[Tensor, Tensor]:
        def attend(x_BLD: Tensor) -> Tensor:
            return self.attentions[self._attention_of[layer]](
                self._shifted(x_BLD, 2 * layer, step),
                self.patterns[self.config.layer_types[layer]],
                turn=step.turn,
                cache=step.cache,
                layer=layer,
            )

        def feed_forward(x_BLD: Tensor) -> Tensor:
            number = self._feed_forward_of[layer]
            return self.feed_forwards[number](self._shifted(x_BLD, 2 * layer + 1, step))

        streams: tuple[Tensor, Tensor] = self.layers[layer](
            first_BLD, second_BLD, attend, feed_forward
        )
        return streams

    def _shifted(self, x_BLD: Tensor, branch: int, step: Step) -> Tensor:
        if self.shift is None:
            return x_BLD
        rows = None
        if step.cache is not None:
            rows = step.cache.extend_rows(branch, x_BLD[..., : self.shift.moved])
        return self.shift(x_BLD, rows, step.start)

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
