"""Tensors of which each process may hold a part, by FSDP or ZeRO: put together, and shared out.

ZeRO 1 and 2 leave the weights whole on every rank and part float32 copies of them; ZeRO 3 parts the weights
too: `ds_tensor` is this rank's share of a parameter, flat and padded to be as long as the others'.
All ranks must call these functions together.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import functional as F


def whole(tensor: Tensor) -> Tensor:
    """A tensor that is parted, put together again; of one that has a float32 copy, that."""
    if isinstance(tensor, DTensor):
        return tensor.full_tensor()
    if in_zero(tensor):
        from deepspeed.utils import safe_get_full_fp32_param

        gathered: Tensor = safe_get_full_fp32_param(tensor)
        return gathered
    return tensor


def whole_shape(tensor: Tensor) -> torch.Size:
    """The shape that `whole` will have."""
    shape: torch.Size = getattr(tensor, "ds_shape", tensor.shape)
    return shape


def parted_like(value: Tensor, model: Tensor) -> Tensor:
    """`value`, the same on all ranks, on the device of `model` and parted as FSDP has parted it."""
    value = value.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(value, model.device_mesh, model.placements)
    return value


@torch.no_grad()
def put(value: Tensor, tensor: Tensor) -> None:
    """Give `tensor` the whole `value`, the same on all ranks, wherever its parts lie."""
    if tensor.shape == value.shape:
        tensor.copy_(parted_like(value, tensor))
    if parted_by_zero(tensor):
        from deepspeed.utils import safe_set_local_fp32_param

        share = zero_share(value, tensor)
        tensor.ds_tensor.copy_(share)  # type: ignore[attr-defined]
        safe_set_local_fp32_param(tensor, share)
    elif in_zero(tensor):
        from deepspeed.utils import safe_set_full_fp32_param

        safe_set_full_fp32_param(tensor, value.to(tensor.device, torch.float32))


# --- What is only here -------------------------------------------------------------------------------


def own_part(parameter: Tensor) -> Tensor:
    """What this rank holds of a parameter; a change of it changes the parameter."""
    part: Tensor = getattr(parameter, "ds_tensor", parameter)
    return part


def part_changed(parameter: Tensor) -> None:
    """Let ZeRO 3 gather a parameter anew of which it keeps the whole, as it does of small ones."""
    if parted_by_zero(parameter):
        parameter.partition()  # type: ignore[attr-defined]


def whole_of_part(part: Tensor, parameter: Tensor) -> Tensor:
    """The whole of a tensor that is parted as `own_part(parameter)` is."""
    if not parted_by_zero(parameter):
        return whole(part)
    shape = whole_shape(parameter)
    shares = [torch.empty_like(part) for _ in range(dist.get_world_size())]
    dist.all_gather(shares, part)
    return torch.cat(shares)[: shape.numel()].view(shape)


def part_of_whole(value: Tensor, parameter: Tensor) -> Tensor:
    """The inverse of `whole_of_part`."""
    if parted_by_zero(parameter):
        return zero_share(value, parameter)
    return parted_like(value, parameter)


# --- ZeRO --------------------------------------------------------------------------------------------


def in_zero(tensor: Tensor) -> bool:
    """Whether DeepSpeed keeps parts of this parameter."""
    return parted_by_zero(tensor) or hasattr(tensor, "_hp_mapping")


def parted_by_zero(tensor: Tensor) -> bool:
    """Whether ZeRO 3 has parted this parameter."""
    return hasattr(tensor, "ds_tensor")


def zero_share(value: Tensor, parameter: Tensor) -> Tensor:
    """This rank's share of a whole `value`, float32, as ZeRO 3 parts `parameter`."""
    size = parameter.ds_tensor.numel()  # type: ignore[attr-defined]
    start = size * dist.get_rank()
    flat = value.flatten()[start : start + size].to(parameter.device, torch.float32)
    return F.pad(flat, (0, size - len(flat)))
