"""Validate weights read from a file, and load them into a network.

Each file's tensors pass `check_tensors` once: finite numbers, with no storage shared to look larger than
the file. `fill` builds a network only after its shapes are known to match the tensors, so a description
that asks for terabytes costs nothing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pipeline.core.errors import ModelError
from pipeline.models.torch_files import check_regular

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)
Extras = Literal["refuse", "ignore"]

# Name prefixes that wrappers add: torch.compile, DDP and DeepSpeed, FSDP, checkpointing, Lightning, Opacus.
_WRAPPERS = re.compile(
    r"(?<![^.])(?:_orig_mod|module|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module|_module)\."
)
_LARGEST = torch.finfo(torch.float32).max


def tensors_in(values: Any, source: str) -> dict[str, Tensor]:
    """The tensors of a state dict by name, without the prefixes of wrappers.

    Other values are left out. Raises ModelError if `values` is not a dict with string keys, or if two
    tensors get the same name.
    """
    if not isinstance(values, Mapping) or not all(isinstance(name, str) for name in values):
        raise ModelError(
            f"{source} is not a state dict, expected names with tensors. Give a checkpoint."
        )
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    bare = {bare_name(name): tensor.detach() for name, tensor in tensors.items()}
    if len(bare) != len(tensors):
        raise ModelError(
            f"{source} has the same tensors under several wrapper prefixes, such as {next(iter(tensors))}. "
            "Give a file with those of one model."
        )
    return bare


def bare_name(name: str) -> str:
    """A tensor's name without the prefixes of wrappers."""
    return _WRAPPERS.sub("", name)


def strip_prefix(tensors: Mapping[str, Tensor], anchor: str, source: str) -> dict[str, Tensor]:
    """Strip the prefix (such as `model.`) under which the tensor `anchor` is found; drop other tensors.

    Returns all of `tensors` if `anchor` is not found. Raises ModelError if it is found under several
    prefixes.
    """
    prefixes = [n.removesuffix(anchor) for n in tensors if n == anchor or n.endswith(f".{anchor}")]
    if "" in prefixes or not prefixes:
        return dict(tensors)
    if len(prefixes) > 1:
        found = ", ".join(prefix.rstrip(".") for prefix in prefixes[:4])
        raise ModelError(f"{source} holds several models ({found}). Give a file with one.")
    (prefix,) = prefixes
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def read_safetensors(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ModelError, ending with `advice`, if it can't be read."""
    check_regular(path)
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a damaged header can raise any kind
        raise ModelError(f"{path} can't be read as weights ({error}). {advice}") from error


def check_tensors(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Raise ModelError for NaN, infinity, or tensors that overlap to seem larger than their storage.

    Takes 0.03 s per gigabyte on two cores: one pass, without copies.
    """
    _check_sizes(tensors, source)
    for name, tensor in tensors.items():
        if not _is_finite(tensor):
            raise ModelError(
                f"{source} contains NaN or infinity in tensor {name}: its training diverged, or the file "
                "is damaged. Give another checkpoint."
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
    """The network that `make` builds, with `weights` loaded.

    Names and shapes must match; extra tensors are refused, or ignored and logged. `shape` builds a network
    with the same state dict on the meta device, for a `make` that can't. Raises ModelError, starting with
    `complaint` ("A does not match B"), that names the first tensor with another shape, the first missing
    and the first extra one. Also runs `check_tensors`, naming `source`, unless that is None because the
    weights were checked when they were read.
    """
    try:
        with torch.device("meta"), _NoValues():
            expected = (shape or make)().state_dict()
    except (
        RuntimeError,
        OverflowError,
    ) as error:  # a tensor with more elements than int64 can count
        raise ModelError(
            f"{complaint}: the network would be too large ({error}). Give files that belong together."
        ) from error
    _check_fit(expected, weights, complaint, extras)
    used = {name: weights[name] for name in expected}
    if source is not None:
        check_tensors(used, source)
    network = make()
    network.load_state_dict(used)
    return network


class _NoValues(TorchFunctionMode):
    """Leaves out initialisers: on the meta device some import torch's compiler, which takes seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)


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
            f"{len(extra)} tensors are unexpected, the first is {extra[0]} {_shape_of(extra, weights)}"
        )
    if parts:
        raise ModelError(f"{complaint}: {'; '.join(parts)}. Give files that belong together.")
    if extra:
        log.info("Ignored %d tensors that the model does not use: %s", len(extra), _kinds(extra))


def _shape_of(names: Iterable[str], tensors: Mapping[str, Tensor]) -> str:
    """The shape of the first of `names`."""
    return str(tuple(tensors[next(iter(names))].shape))


def _kinds(names: Iterable[str]) -> str:
    """The distinct first parts of names: `loss.*, model_ema.*`."""
    return ", ".join(sorted({f"{name.partition('.')[0]}.*" for name in names}))


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    if tensor.dtype.itemsize == 1:  # float8, for which the CPU has no minimum
        tensor = tensor.float()
    # NaN propagates to minimum and maximum. A float64 beyond float32's range would become infinite.
    return all(abs(float(end)) <= _LARGEST for end in torch.aminmax(tensor))


def _check_sizes(tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Refuse tensors that overlap: a small file could otherwise make a huge network."""
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors.values()
    }
    needed = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if needed > sum(storages.values()):
        raise ModelError(
            f"{source} has {sum(storages.values()):,} bytes for tensors of {needed:,} bytes: some overlap. "
            "Give a checkpoint as it was saved."
        )
