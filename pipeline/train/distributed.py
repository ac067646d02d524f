"""The processes that train together, and the tensors that they share.

There is a single process, or those that torchrun started. Every rank reads its part of each global batch and
holds all weights (DDP) or a shard of them (FSDP2, DeepSpeed's ZeRO). Only rank 0 writes files. All ranks stop
after the same step, whichever of them received a signal: each sends its vote in a collective that all take
part in anyway, so none waits for one that left.

ZeRO 1 and 2 keep full weights on every rank and shard float32 copies of them. ZeRO 3 also shards the
weights: `ds_tensor` is this rank's shard of a parameter, flat and padded to the same length on all ranks.
All ranks must call the functions that gather or shard tensors together.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.core.errors import ConfigError
from pipeline.core.stop_signals import StopRequest

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

Parallel = Literal["auto", "none", "ddp", "fsdp", "deepspeed"]
Kind = Literal["none", "ddp", "fsdp", "deepspeed"]


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's rank (0 to size - 1), the number of processes, and this one's device."""

    kind: Kind
    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and reports progress."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training; FSDP also shards the weights of `model` in place."""
        # Imported here: they take longer than a small training.
        if self.kind == "ddp":
            from torch.nn.parallel import DistributedDataParallel

            return DistributedDataParallel(model)
        if self.kind == "fsdp":
            from torch.distributed.fsdp import fully_shard

            for layer in _layers(model):
                fully_shard(layer)
            # Without the flag the root stays unsharded after a forward pass without a backward pass.
            fully_shard(model, reshard_after_forward=True)
        return model

    @contextlib.contextmanager
    def share_gradients(self, model: nn.Module, share: bool) -> Iterator[None]:
        """For the backward pass inside this context: average gradients over all ranks if `share` is set."""
        wrapped: Any = model
        if self.kind == "ddp" and not share:
            with wrapped.no_sync():
                yield
            return
        if self.kind == "fsdp":
            wrapped.set_requires_gradient_sync(share)
        if self.kind == "deepspeed":
            wrapped.set_gradient_accumulation_boundary(share)
        yield

    def gather(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, stacked, on the CPU."""
        if self.kind == "none":
            return values[None].cpu()
        return self.gather_on_device(values.to(self.device)).cpu()

    def gather_on_device(self, values: Tensor) -> Tensor:
        """The tensors of all ranks, stacked, on this rank's device, which the caller need not wait for."""
        if self.kind == "none":
            return values[None]
        mine = values.contiguous()
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return torch.stack(parts)

    def gather_texts(self, texts: Sequence[str]) -> list[str]:
        """The texts of all ranks, in rank order."""
        if self.kind == "none":
            return list(texts)
        parts: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(parts, list(texts))
        return [text for part in parts for text in part]

    def barrier(self) -> None:
        """Wait until all ranks get here."""
        if self.kind != "none":
            self.gather(torch.zeros(1))


def count_ranks() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def join_ranks(parallel: Parallel, device: torch.device) -> Iterator[Ranks]:
    """Join torchrun's process group, if there is one.

    Raises ConfigError if `parallel` doesn't fit the way the command was started.
    """
    size = count_ranks()
    started = "WORLD_SIZE" in os.environ
    if parallel == "none" and size > 1:
        raise ConfigError(
            f"--parallel none, but torchrun started {size} processes. Use ddp, fsdp "
            "or deepspeed, or start a single process."
        )
    if parallel in ("ddp", "fsdp", "deepspeed") and not started:
        raise ConfigError(
            f"--parallel {parallel} needs a process group. Start it with: "
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
        _leave_groups()


def _leave_groups() -> None:
    """Leave the process groups, and keep their objects until the process ends.

    Freeing a gloo group joins its threads without releasing the GIL, for which a thread may be waiting that
    frees a tensor of the last collective: whoever frees the last reference (a DDP module, later) then hangs.
    """
    # torch has no public list of groups; DeepSpeed makes some of its own.
    world = getattr(dist.distributed_c10d, "_world", None)
    groups = list(getattr(world, "pg_map", ())) or [dist.group.WORLD]
    for group in groups:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(group))
    dist.destroy_process_group()


def _layers(model: nn.Module) -> list[nn.Module]:
    """The modules that FSDP gathers one at a time: members of module lists that have a matrix.

    Everything else (embeddings, heads, vectors) is gathered with the root module.
    """
    lists = (module for module in model.modules() if isinstance(module, nn.ModuleList))
    held = dict.fromkeys(module for one in lists for module in one)
    return [
        module
        for module in held
        if not isinstance(module, nn.ModuleList) and any(p.ndim > 1 for p in module.parameters())
    ]


class Stop:
    """Whether the ranks have agreed to stop."""

    def __init__(self, ranks: Ranks, request: StopRequest) -> None:
        self._ranks, self._request = ranks, request
        self.agreed = False

    @property
    def asked(self) -> bool:
        """Whether this rank was asked to stop; the others may not know yet."""
        return self._request.asked

    @property
    def vote(self) -> float:
        """This rank's vote: above 0 to stop."""
        return float(self.asked)

    def count(self, votes_R: Tensor) -> None:
        """Count the votes of all ranks, the same on each."""
        self.agreed = self.agreed or bool(votes_R.any())

    def agree(self) -> bool:
        """Exchange votes with all ranks, which must call this together; returns whether to stop."""
        self.count(self._ranks.gather(torch.tensor([self.vote])))
        return self.agreed


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all ranks if it is sharded; its float32 copy if it has one."""
    if sharded_by_fsdp(tensor):
        return tensor.full_tensor()
    if managed_by_zero(tensor):
        from deepspeed.utils import safe_get_full_fp32_param

        gathered: Tensor = safe_get_full_fp32_param(tensor)
        return gathered
    return tensor


def full_shape(tensor: Tensor) -> torch.Size:
    """The shape of the full tensor."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def sharded_like(value: Tensor, model: Tensor) -> Tensor:
    """`value`, the same on all ranks, on the device of `model` and sharded like it by FSDP."""
    value = value.to(model.device)
    if sharded_by_fsdp(model):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(value, model.device_mesh, model.placements)
    return value


@torch.no_grad()
def copy_full(value: Tensor, tensor: Tensor) -> None:
    """Copy the full `value`, the same on all ranks, into `tensor`, sharded or not."""
    if tensor.shape == value.shape:
        tensor.copy_(sharded_like(value, tensor))
    if sharded_by_zero(tensor):
        from deepspeed.utils import safe_set_local_fp32_param

        share = zero_shard(value, tensor)
        tensor.ds_tensor.copy_(share)  # type: ignore[attr-defined]
        safe_set_local_fp32_param(tensor, share)
    elif managed_by_zero(tensor):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(tensor, value.to(tensor.device, torch.float32))


def local_shard(parameter: Tensor) -> Tensor:
    """This rank's shard of a parameter; writing to it changes the parameter."""
    part: Tensor = getattr(parameter, "ds_tensor", parameter)
    return part


def shard_changed(parameter: Tensor) -> None:
    """After a write to the shard: have ZeRO 3 gather the parameter again, if it caches the full one."""
    if sharded_by_zero(parameter):
        parameter.partition()  # type: ignore[attr-defined]


def gather_shards(part: Tensor, parameter: Tensor) -> Tensor:
    """The full tensor of which `part` is this rank's shard, sharded like `parameter`."""
    if not sharded_by_zero(parameter):
        return full_tensor(part)
    shape = full_shape(parameter)
    shares = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, part)
    return torch.cat(shares)[: shape.numel()].view(shape)


def shard_of(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's shard of a full `value`, sharded like `parameter`."""
    if sharded_by_zero(parameter):
        return zero_shard(value, parameter)
    return sharded_like(value, parameter)


def sharded_by_fsdp(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether it is a DTensor, whose class is imported only where there are any."""
    return hasattr(tensor, "full_tensor")


def managed_by_zero(tensor: Tensor) -> bool:
    """Whether ZeRO manages this parameter or a sharded copy of it."""
    return sharded_by_zero(tensor) or hasattr(tensor, "_hp_mapping")


def sharded_by_zero(tensor: Tensor) -> bool:
    """Whether ZeRO 3 has sharded this parameter."""
    return hasattr(tensor, "ds_tensor")


def zero_shard(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's float32 shard of a full `value`, as ZeRO 3 shards `parameter`."""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    start = size * dist.get_rank()
    flat = value.flatten()[start : start + size].to(parameter.device, torch.float32)
    return F.pad(flat, (0, size - len(flat)))
