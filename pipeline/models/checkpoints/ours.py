"""Checkpoints of a DALL·E: a folder of safetensors and a JSON that describes them. Floor 3.

    step-000500/
      checkpoint.json        format, hyper-parameters, where training stood, what it was made from
      model.safetensors      the weights
      optimizer.safetensors  moments and steps, `<parameter>/<state>`
      average.safetensors    the running mean of the weights, where one is kept: this is drawn with
      rng.safetensors        states of the random generators

The folder appears by one rename, so what has the name is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.dalle import Dalle
from pipeline.models.dalle_config import DalleConfig
from pipeline.storage import (
    TEMPORARY_SUFFIX,
    sha256_bytes,
    sha256_file,
    storage_error,
    sync_folder,
    write_bytes,
    write_json,
)

INFO_FILE = "checkpoint.json"
MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"
RNG_FILE = "rng.safetensors"
FORMAT = {"format": "dalle-pipeline/checkpoint", "version": 2}


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    `consumed` is how many samples of the order of `epoch` the run has read. `codec` and `tokenizer`
    are the fingerprints of what the codes and token ids were made with. `training` holds what else a
    run needs to go on (learning rate, scaler) or tells of itself, as JSON values.
    """

    step: int
    epoch: int
    consumed: int
    model: DalleConfig
    codec: str
    tokenizer: str
    shards: str
    training: Mapping[str, Any] = field(default_factory=dict)


def write_checkpoint(
    folder: Path, info: CheckpointInfo, files: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write `files` (name → tensors) and their description to `folder`, whole or not at all.

    Raises StorageError when the disk is full or refuses.
    """
    partial = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    hashes = {}
    for name, tensors in sorted(files.items()):
        data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        write_bytes(partial / name, data)
        hashes[name] = sha256_bytes(data)
    write_json(partial / INFO_FILE, {**FORMAT, **asdict(info), "files": hashes})
    try:
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(error, folder) from error


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in `folder`, by step."""
    return sorted(path for path in folder.glob("step-*") if path.suffix != TEMPORARY_SUFFIX)


def read_info(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself.

    Raises ModelError for a folder that is no checkpoint, or one of another version.
    """
    raw = _read_description(folder)
    fields = {name: raw[name] for name in CheckpointInfo.__dataclass_fields__ if name in raw}
    try:
        return CheckpointInfo(**{**fields, "model": DalleConfig.from_dict(raw["model"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder / INFO_FILE} lacks or doubles a field ({error}). Use another checkpoint."
        ) from error


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read one file of a checkpoint, checked against the hash that its description gives.

    Raises ModelError for a file that is missing, cut short or changed.
    """
    path = folder / name
    expected = _read_description(folder)["files"].get(name)
    try:
        if expected is None or sha256_file(path) != expected:
            raise ModelError(
                f"{path} is not the file that {INFO_FILE} describes (sha256 differs): it was cut "
                "short or changed. Use another checkpoint."
            )
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} can't be read ({error}). Use another checkpoint.") from error


def load_dalle(folder: Path, *, device: torch.device) -> Dalle:
    """The model of a checkpoint, ready to draw, with the mean of its weights if it keeps one.

    Raises ModelError for weights that do not fit the hyper-parameters.
    """
    model = Dalle(read_info(folder).model)
    load_weights(model, read_tensors(folder, _weights_file(folder)), folder)
    return model.to(device).eval()


def check_weights(folder: Path) -> None:
    """Check that the weights to draw with are those that the description names, without loading them.

    Raises ModelError for a checkpoint that is missing, cut short or changed.
    """
    read_info(folder)
    name = _weights_file(folder)
    described = _read_description(folder).get("files")
    expected = described.get(name) if isinstance(described, dict) else None
    try:
        whole = expected is not None and sha256_file(folder / name) == expected
    except OSError as error:
        raise ModelError(f"{folder / name} can't be read ({error.strerror}).") from error
    if not whole:
        raise ModelError(
            f"{folder / name} is not the file that {INFO_FILE} describes (sha256 differs)."
        )


def _weights_file(folder: Path) -> str:
    """The file to draw with: the mean of the weights if the checkpoint keeps one."""
    return AVERAGE_FILE if (folder / AVERAGE_FILE).exists() else MODEL_FILE


def load_weights(model: Dalle, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Put weights into a model of their hyper-parameters; raises ModelError where they don't fit."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"The weights of {folder} don't fit its hyper-parameters: {error}"
        ) from error


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / INFO_FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_bytes())
        found = {name: raw.get(name) for name in FORMAT}
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{folder} is not a checkpoint: {INFO_FILE} can't be read ({error}). "
            "Give a folder like runs/NAME/checkpoints/step-000500."
        ) from error
    if found != FORMAT:
        raise ModelError(
            f"{path} has format {found['format']} version {found['version']}, expected "
            f"{FORMAT['format']} version {FORMAT['version']}. Use the pipeline that wrote it."
        )
    return raw
