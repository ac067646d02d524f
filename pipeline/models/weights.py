"""Weights that were read from a file, and the network that they go into. Layer 3.

Each file's tensors pass `check_tensors` once: whole, finite numbers, in no more memory than the file has
bytes. `fill` builds a network only after its shapes are known to be those of the tensors, so that a
description that asks for terabytes costs nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from pipeline.core.errors import ModelError
from pipeline.models.torch_files import check_regular

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Extras = Literal["refuse", "ignore"]

# What wrappers put into names: torch.compile, DDP and DeepSpeed, FSDP, checkpointing, Lightning, Opacus.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_module)\."
)
_LARGEST = torch.finfo(torch.float32).max


def tensors_in(values: Any, source: str) -> dict[str, Tensor]:
    """The tensors of a state dict by their names, without what wrappers put into these.

    Values that are no tensors are left out. Raises ModelError where `values` is no dict of names, or two
    tensors get the same name.
    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ModelError(
            f"{source} is no state dict, expected tensors by their names. Give a checkpoint."
        )
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    bare = {bare_name(name): tensor.detach() for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise ModelError(
            f"{source} has the same tensors under several wrappers, {next(iter(tensors))} among them. "
            "Keep those of one model."
        )
    return bare


def bare_name(name: str) -> str:
    """A tensor's name without what wrappers put into it."""
    return _WRAPPERS.sub("", name)


def without_prefix(tensors: Mapping[str, Tensor], anchor: str, source: str) -> dict[str, Tensor]:
    """The tensors of the model whose tensor `anchor` is there under some prefix (`model.`), without it.

    All of `tensors` where none is there. Raises ModelError where several models are.
    """
    prefixes = [n.removesuffix(anchor) for n in tensors if n == anchor or n.endswith(f".{anchor}")]
    if "" in prefixes or not prefixes:
        return dict(tensors)
    if len(prefixes) > 1:
        found = ", ".join(prefix.rstrip(".") for prefix in prefixes[:4])
        raise ModelError(f"{source} holds several models ({found}). Give a file of one.")
    (prefix,) = prefixes
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def read_safetensors(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ModelError, ending in `advice`, where it can't be read."""
    check_regular(path)
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a damaged header can make any of them
        raise ModelError(f"{path} can't be read as weights ({error}). {advice}") from error


def check_tensors(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise ModelError for a NaN, an infinity, or tensors that only share the bytes that they seem to have.

    Takes 0.03 s a gigabyte on two cores: one pass, nothing is copied.
    """
    _check_sizes(tensors, source)
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise ModelError(
                f"{source} holds a NaN or an infinity in tensor {name}: its training diverged, or the file "
                "was damaged. Give another checkpoint."
            )


def fill(
    make: Callable[[], M],
    weights: Mapping[str, Tensor],
    *,
    complaint: str,
    source: Path | str | None = None,
    extras: Extras = "refuse",
    shape: Callable[[], nn.Module] | None = None,
) -> M:
    """The network that `make` builds, with `weights` in it.

    They must match name by name and shape by shape; what is too many is refused, or ignored and counted in
    the log. `shape` builds one with the same state and without data, where `make` can't. Raises ModelError,
    beginning with `complaint` ("A does not fit B"), that names the first tensor of another shape, the first
    missing and the first extra one; and as `check_tensors` does, for `source`, which is None where
    that was done when they were read.
    """
    try:
        with torch.device("meta"):
            expected = (shape or make)().state_dict()
    except (RuntimeError, OverflowError) as error:  # a tensor of more numbers than can be counted
        raise ModelError(f"{complaint}: no network is that large ({error}).") from error
    _check_fit(expected, weights, complaint, extras)
    used = {name: weights[name] for name in expected}
    if source is not None:
        check_tensors(used, source)
    network = make()
    network.load_state_dict(used)
    return network


def _check_fit(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], complaint: str, extras: Extras
) -> None:
    changed = [n for n in expected if n in weights and weights[n].shape != expected[n].shape]
    missing = [name for name in expected if name not in weights]
    extra = [name for name in weights if name not in expected]
    parts = []
    if changed:
        found, wanted = (_shape_of(changed, side) for side in (weights, expected))
        parts.append(f"tensor {changed[0]} has the shape {found}, expected {wanted}")
    if missing:
        parts.append(
            f"{len(missing)} tensors are missing, the first is {missing[0]} {_shape_of(missing, expected)}"
        )
    if extra and (parts or extras == "refuse"):
        parts.append(
            f"{len(extra)} are too many, the first is {extra[0]} {_shape_of(extra, weights)}"
        )
    if parts:
        raise ModelError(f"{complaint}: {'; '.join(parts)}. Give files that belong together.")
    if extra:
        log.info(
            "%d tensors have no part in drawing and are left out: %s", len(extra), _kinds(extra)
        )


def _shape_of(names: Iterable[str], tensors: Mapping[str, Tensor]) -> str:
    """The shape of the first of `names`."""
    return str(tuple(tensors[next(iter(names))].shape))


def _kinds(names: Iterable[str]) -> str:
    """The first parts of names, each once: `loss.*, model_ema.*`."""
    return ", ".join(sorted({f"{name.partition('.')[0]}.*" for name in names}))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype.itemsize == 1:  # float8, which has no minimum on processors
        tensor = tensor.float()
    # Of NaN and anything the least and the greatest are NaN. A float64 beyond float32 would become infinite.
    return all(abs(float(end)) <= _LARGEST for end in torch.aminmax(tensor))


def _check_sizes(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """A few bytes can be named as many tensors; a network of these has far more than the file."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()
    }
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if needed > sum(storages.values()):
        raise ModelError(
            f"{source} has {sum(storages.values()):,} bytes for tensors of {needed:,}: several are the same "
            "bytes. Give a checkpoint as it was saved."
        )
