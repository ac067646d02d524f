"""Compiling a model for training, block by block.

All layers of one kind of attention share a graph: compiling takes as long for 12 layers as for one, and the
graph is kept on disk for the next run. FSDP gathers attentions and feed-forwards one at a time, by hooks
around their `forward`, so with it these are compiled and the residual stream between them is not. The output
head is compiled by the chunk; embeddings are not.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from pipeline.core.cache import default_cache
from pipeline.models.dalle.attention import Pattern
from pipeline.models.dalle.attention_kernels import choose_kernel
from pipeline.models.dalle.losses import chunk_loss
from pipeline.models.dalle.model import Dalle
from pipeline.models.dalle.transformer import run_block
from pipeline.train.distributed import Kind

# Of a function: each kind of attention has one for training and one for validation.
MOST_GRAPHS = 64


def compile_model(model: nn.Module, kind: Kind, **options: Any) -> None:
    """Compile `model` in place, before it is sharded; `options` are those of `torch.compile`.

    Nothing is compiled yet: that happens when it is first called.
    """
    prepare_compiler()
    if not isinstance(model, Dalle):
        model.compile(**options)
        return
    transformer, config = model.transformer, model.config
    for pattern in transformer.patterns.values():
        assert isinstance(pattern, Pattern)
        on_cuda = next(model.parameters()).device.type == "cuda"
        if on_cuda and choose_kernel(pattern.kind, config.total_seq_len) == "flex":
            pattern.use_flex(config)
    model.chunk_loss = torch.compile(chunk_loss, dynamic=False, **options)
    if kind == "fsdp":
        for part in (*transformer.attentions, *transformer.feed_forwards):
            part.forward = torch.compile(part.forward, dynamic=False, **options)
    else:
        transformer.run_block = torch.compile(run_block, dynamic=False, **options)


def is_compiled(model: nn.Module) -> bool:
    """Whether `compile_model` was called on a model."""
    if not isinstance(model, Dalle):
        return model._compiled_call_impl is not None
    return model.chunk_loss is not chunk_loss


@contextlib.contextmanager
def eager(model: nn.Module, condition: bool) -> Iterator[None]:
    """If `condition` holds, a compiled model runs eagerly inside this context.

    For batches of a size that comes once: compiling a graph for it takes longer than it saves.
    """
    model = getattr(model, "module", model)  # inside DDP
    if not condition or not is_compiled(
        model
    ):  # the switch alone imports the compiler, which takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def use_eager(model: nn.Module) -> None:
    """Undo `compile_model`."""
    if not isinstance(model, Dalle):
        model._compiled_call_impl = None
        return
    model.chunk_loss = chunk_loss
    model.transformer.run_block = run_block
    for part in (*model.transformer.attentions, *model.transformer.feed_forwards):
        part.__dict__.pop("forward", None)


def prepare_compiler() -> None:
    """Global settings of torch's compiler: where graphs are kept, and how many."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(default_cache() / "compiled"))
    import torch._dynamo

    settings: Any = torch._dynamo.config
    # Called `cache_size_limit` before torch 2.7.
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"
    setattr(settings, name, max(MOST_GRAPHS, getattr(settings, name)))
    # DDP would cut each block's graph at its buckets; its gradients are shared block by block anyway.
    settings.optimize_ddp = False


def count_graphs() -> int:
    """Graphs that this process has compiled so far."""
    import torch._dynamo.utils

    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
