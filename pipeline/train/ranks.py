"""The processes that train together: one, or those that torchrun started.

Every rank reads its part of each global batch and holds the same weights (DDP) or a part of them (FSDP2,
DeepSpeed's ZeRO). Rank 0 alone writes.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

from pipeline.core.errors import ConfigError

Parallel = Literal["auto", "none", "ddp", "fsdp", "deepspeed"]
Kind = Literal["none", "ddp", "fsdp", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among `size` processes, 0..size-1, and its device."""

    kind: Kind
    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training; FSDP also parts the weights of `model` in place."""
        if self.kind == "ddp":
            return DistributedDataParallel(model)
        if self.kind == "fsdp":
            for layer in _layers(model):
                fully_shard(layer)
            # Without the flag the root stays whole after a forward pass without a backward one.
            fully_shard(model, reshard_after_forward=True)
        return model

    @contextlib.contextmanager
    def share_gradients(self, model: nn.Module, share: bool) -> Iterator[None]:
        """Average the gradients of the backward pass within over all ranks, or keep them here."""
        if isinstance(model, DistributedDataParallel) and not share:
            with model.no_sync():
                yield
            return
        if isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(share)
        if self.kind == "deepspeed":
            engine: Any = model
            engine.set_gradient_accumulation_boundary(share)
        yield

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, stacked, on the CPU."""
        if self.kind == "none":
            return values[None].cpu()
        mine = values.to(self.device).contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return torch.stack(parts).cpu()

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts of all ranks, in their order."""
        if self.kind == "none":
            return list(texts)
        parts: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(texts))
        return [text for part in parts for text in part]

    def wait(self) -> None:
        """Go on when all ranks are here."""
        if self.kind != "none":
            self.gather(torch.zeros(1))


def count_ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join_ranks(parallel: Parallel, device: torch.device) -> Iterator[Ranks]:
    """Meet the other processes of torchrun, if there are any.

    Raises ConfigError where `parallel` and the way the command was started don't go together.
    """
    size = count_ranks()
    started = "WORLD_SIZE" in os.environ
    if parallel == "none" and size > 1:
        raise ConfigError(
            f"--parallel none, but torchrun started {size} processes. Use ddp, fsdp "
            "or deepspeed, or start one."
        )
    if parallel in ("ddp", "fsdp", "deepspeed") and not started:
        raise ConfigError(
            f"--parallel {parallel} needs processes that find each other. Start them with: "
            f"torchrun --nproc-per-node N -m pipeline train --parallel {parallel} …"
        )
    if parallel == "none" or (parallel == "auto" and size == 1):
        yield Ranks(kind="none", rank=0, size=1, device=device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        kind: Kind = parallel if parallel in ("fsdp", "deepspeed") else "ddp"
        yield Ranks(kind=kind, rank=dist.get_rank(), size=size, device=device)
    finally:
        gc.collect()  # DDP that outlives its process group may wait for it forever when it goes
        dist.destroy_process_group()


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that FSDP gathers one at a time: those that lists of modules hold, with a matrix.

    The others, embeddings and heads and all vectors, are gathered with the whole.
    """
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    held = dict.fromkeys(module for one in lists for module in one)
    return [
        module
        for module in held
        if not isinstance(module, nn.ModuleList) and any(p.ndim > 1 for p in module.parameters())
    ]
