"""Consolidated weights, as written by the zero_to_fp32.py that DeepSpeed puts beside its checkpoints.

One file of named tensors, `pytorch_model.bin` or `model.safetensors`, or several files with an index that
maps tensors to files. The hyper-parameters are in the training's `auxiliary.pt`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.core.errors import ContractError, ModelError
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file
from pipeline.models.checkpoints.dalle_pytorch import model_tensors
from pipeline.models.torch_files import read_torch_file
from pipeline.models.weights import read_safetensors

_FILES = ("pytorch_model.bin", "model.safetensors")
_INDEX = ".index.json"
_ADVICE = "Give the files as zero_to_fp32.py wrote them."


@dataclass(frozen=True, kw_only=True)
class _Index:
    weight_map: Mapping[str, str]


def find_consolidated(folder: Path) -> Path | None:
    """The file of consolidated weights in `folder`, or the index of several; None if there is none."""
    names = [name + suffix for name in _FILES for suffix in ("", _INDEX)]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_by_name(path: Path) -> bool:
    """Whether a file's name alone identifies it as one of these, not written by `torch.save`."""
    return path.name.endswith((".safetensors", _INDEX))


def is_consolidated(saved: Any) -> bool:
    """Whether a `torch.save` file held nothing but named tensors."""
    values = list(saved.values()) if isinstance(saved, Mapping) else []
    return bool(values) and all(isinstance(value, Tensor) for value in values)


def read_consolidated(path: Path) -> dict[str, Tensor]:
    """The model's tensors from the file at `path`, or from all files if it is an index.

    Raises ModelError for a missing or damaged file.
    """
    if not path.name.endswith(_INDEX):
        return model_tensors(_read(path), path)
    tensors: dict[str, Any] = {}
    for name in sorted(set(_read_index(path).weight_map.values())):
        tensors |= _read(path.parent / name)
    return model_tensors(tensors, path)


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return read_safetensors(path, _ADVICE)
    saved = read_torch_file(path)
    if not is_consolidated(saved):
        raise ModelError(f"{path} holds something other than named tensors. {_ADVICE}")
    return saved


def _read_index(path: Path) -> _Index:
    try:
        index = parse_json_file(path, _Index, remedy=_ADVICE)
        for name in index.weight_map.values():
            path_inside(path.parent, name, source=path)
    except ContractError as error:
        raise ModelError(str(error)) from error
    return index
