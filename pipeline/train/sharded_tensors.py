"""Gathering and sharding of tensors that FSDP or ZeRO distributes over the ranks.

ZeRO 1 and 2 keep full weights on every rank and shard float32 copies of them. ZeRO 3 also shards the
weights: `ds_tensor` is this rank's shard of a parameter, flat and padded to the same length on all ranks.
All ranks must call these functions together.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F


def full_tensor(tensor: Tensor) -> Tensor:
    """The full tensor, gathered from all ranks if it is sharded; its float32 copy if it has one."""
    if isinstance(tensor, DTensor):
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
    if isinstance(model, DTensor):
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


# --- Local shards ------------------------------------------------------------------------------------


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


# --- ZeRO --------------------------------------------------------------------------------------------


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
