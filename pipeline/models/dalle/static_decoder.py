"""The next code's logits for a batch of images, each at its own position, by operators of fixed shapes.

On CUDA the operators of a step are recorded once for each number of rows and of codes to attend to, and then
replayed: launching 250 kernels one by one takes longer than running them. With `compile`, the layers are
compiled, one graph for each kind of attention. Where either fails, the step runs as it is, which is logged
once.

Shapes as in `static_cache`; V ids of the codebook.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.models.dalle.attention import KeyValueCache
from pipeline.models.dalle.attention_types import AttentionType
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.static_cache import (
    Place,
    StaticCache,
    captured_lengths,
    hidden_scores,
    run_layer,
    shift_sources,
    spans_of,
)
from pipeline.models.devices import is_gpu_failure, is_out_of_memory, reason_of

logger = logging.getLogger(__name__)

# logits_BV of the first rows, whose positions are below a length.
Step = Callable[[int, int], Tensor]


@dataclass(kw_only=True)
class FixedShapes:
    """How to draw by operators of fixed shapes, and the decoder of the last batch, for the next one.

    `graphs` says whether to use CUDA graphs (default: on CUDA), `compile` whether to compile the layers with
    `backend`; where one of them fails it is switched off.
    """

    compile: bool = False
    graphs: bool | None = None
    backend: str = "inductor"
    _kept: StaticDecoder | None = None

    def decoder(self, model: Dalle, starts: Sequence[tuple[KeyValueCache, int]]) -> StaticDecoder:
        """A decoder of images that begin with `starts` (see `StaticCache`)."""
        kept = self._kept
        if kept is not None and kept.model is model and kept.cache.refill(starts):
            return kept
        self._kept = kept = None  # its memory may be needed
        self._kept = StaticDecoder(model, StaticCache(model, starts), self)
        return self._kept

    def forget(self) -> None:
        """Free the memory of the last batch."""
        self._kept = None


class StaticDecoder:
    """Computes logits of the next codes for the images of `cache`."""

    def __init__(self, model: Dalle, cache: StaticCache, fixed: FixedShapes) -> None:
        self.model = model
        self.cache = cache
        self.fixed = fixed
        device = cache.layers[0].keys.device
        if fixed.graphs is None:
            fixed.graphs = device.type == "cuda"
        self._lengths = captured_lengths(cache.codes)
        transformer = model.transformer
        self._blocks = [transformer.block(layer) for layer in range(model.config.depth)]
        self._compiled: Callable | None = None
        self._codes_B = torch.zeros(cache.rows, dtype=torch.int64, device=device)
        self._positions_B = torch.zeros_like(self._codes_B)
        self._graphs = _Graphs(fixed)

    @torch.inference_mode()
    def next_logits(self, codes_B: Tensor, positions_B: Tensor, *, last: int) -> Tensor:
        """logits_BV of the codes that follow `codes_B`, which are at `positions_B` of their images.

        Both are int64, for the first rows of the cache; `last` is the largest position. The result is valid
        until the next call.
        """
        rows = len(codes_B)
        length = next(length for length in self._lengths if length > last)
        self._codes_B[:rows] = codes_B
        self._positions_B[:rows] = positions_B
        return self._graphs.run(self._step, rows, length)

    def _step(self, rows: int, length: int) -> Tensor:
        codes_B, positions_B = self._codes_B[:rows], self._positions_B[:rows]
        config, places = self.model.config, self._places(positions_B, length)
        layers = self.cache.lead(rows)

        def transform(x_BD: Tensor) -> Tensor:
            # Two tensors, so that the graph of the first layer fits all of them.
            first_BD, second_BD = x_BD, x_BD.clone() if config.reversible else x_BD
            for block, kind, cache in zip(self._blocks, config.layer_types, layers, strict=True):
                first_BD, second_BD = self._run(block, cache, places[kind], first_BD, second_BD)
            return (first_BD + second_BD) / 2 if config.reversible else second_BD

        return self.model.logits_at(codes_B, positions_B, transform)

    def _run(self, *arguments: object) -> tuple[Tensor, Tensor]:
        """A layer. Where compiling fails it runs as it is, from its start: it writes to the same places."""
        if not self.fixed.compile:
            return run_layer(*arguments)  # type: ignore[arg-type]
        if self._compiled is None:  # torch imports its compiler here, which takes seconds
            backend = self.fixed.backend
            self._compiled = torch.compile(run_layer, backend=backend, fullgraph=True)
        try:
            return self._compiled(*arguments)
        except Exception as error:
            if is_out_of_memory(error) or is_gpu_failure(error):
                raise
            self.fixed.compile = False
            logger.warning(
                "The model can't be compiled (%s): drawing uncompiled.", reason_of(error)
            )
        return self._run(*arguments)

    def _places(self, positions_B: Tensor, length: int) -> dict[AttentionType, Place]:
        transformer, text = self.model.transformer, self.cache.text
        turn = None
        if self.model.config.rotary_emb:
            angles_B11R = transformer.angles_LR.index_select(0, positions_B + text)[:, None, None]
            turn = angles_B11R.cos(), angles_B11R.sin()
        above_B, left_B = shift_sources(positions_B, self.model.config.image_fmap_size)
        if self.cache.layers[0].joined:
            place = Place(positions_B, above_B, left_B, turn, None, spans_of(positions_B.tolist()))
            return dict.fromkeys(self.cache.visible, place)
        places = {
            kind: Place(
                positions_B,
                above_B,
                left_B,
                turn,
                hidden_scores(positions_B, visible_NS, text=text, length=length),
            )
            for kind, visible_NS in self.cache.visible.items()
        }
        if self.fixed.compile:  # one graph for all lengths
            for place in places.values():
                torch._dynamo.maybe_mark_dynamic(place.hidden_B1S, 2)
        return places


class _Graphs:
    """CUDA graphs of a step, by its arguments.

    It doesn't hold the step: its memory should be free as soon as nobody uses the decoder.
    """

    def __init__(self, fixed: FixedShapes) -> None:
        self._fixed = fixed
        self._recorded: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, Tensor] | None] = {}
        self._pool: Any = None

    def run(self, step: Step, rows: int, length: int) -> Tensor:
        """The first run with these arguments is a normal one, which also initialises the kernels."""
        key = rows, length
        if not self._fixed.graphs or key not in self._recorded:
            self._recorded[key] = None
            return step(rows, length)
        found = self._recorded[key] or self._record(step, rows, length)
        if found is None:
            return step(rows, length)
        self._recorded[key] = found
        graph, logits_BV = found
        graph.replay()
        return logits_BV

    def _record(
        self, step: Step, rows: int, length: int
    ) -> tuple[torch.cuda.CUDAGraph, Tensor] | None:
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may use the device meanwhile, to decode images.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits_BV = step(rows, length)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._fixed.graphs = False
            logger.warning(
                "The steps can't be recorded as CUDA graphs (%s): drawing without.",
                reason_of(error),
            )
            return None
        self._pool = graph.pool()
        return graph, logits_BV
