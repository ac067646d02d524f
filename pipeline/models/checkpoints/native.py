"""Checkpoints of a DALL·E: a folder of safetensors and a JSON that describes them. Layer 3.

    step-000500/
      checkpoint.json        format, hyper-parameters, where training was, what it was made from
      model.safetensors      the weights
      optimizer.safetensors  moments and steps, `<parameter>/<state>`
      average.safetensors    the running mean of the weights, where one is kept: this is drawn with
      rng.safetensors        states of the random generators
      critic.safetensors     of a run that began with a dalle.pt: what that had beside its codec's network

The folder appears by one rename, so what has the name was whole. `series` says which folders are ours.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.core.storage import (
    TEMPORARY_SUFFIX,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
)
from pipeline.models.checkpoints.info import FORMAT, read_description
from pipeline.models.checkpoints.info import INFO_FILE as INFO_FILE
from pipeline.models.checkpoints.info import CheckpointInfo as CheckpointInfo
from pipeline.models.checkpoints.series import list_checkpoints as list_checkpoints
from pipeline.models.checkpoints.series import put_in_place, remove_own_files
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from pipeline.models.torch_files import check_regular
from pipeline.models.weights import check_tensors, fill, read_safetensors

logger = logging.getLogger(__name__)

MODEL_FILE = "model.safetensors"
OPTIMIZER_FILE = "optimizer.safetensors"
AVERAGE_FILE = "average.safetensors"
RNG_FILE = "rng.safetensors"
CRITIC_FILE = "critic.safetensors"


def write_checkpoint(
    folder: Path, info: CheckpointInfo, files: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Write `files` (name → tensors) and their description to `folder`, whole or not at all.

    Raises StorageError when the disk is full or refuses.
    """
    partial = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    remove_own_files(partial)
    hashes = {}
    for name, tensors in sorted(files.items()):
        data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()})
        write_bytes(partial / name, data)
        hashes[name] = sha256_bytes(data)
    write_json(partial / INFO_FILE, {**FORMAT, **asdict(info), "files": hashes})
    put_in_place(partial, folder)


def last_checkpoint(folder: Path) -> Path | None:
    """The last whole checkpoint in `folder`, every file's hash checked; None where there is none.

    Later ones that are damaged are named in a warning each.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(path)
            return path
        except ModelError as error:
            logger.warning("Passed over the damaged checkpoint %s: %s", path, error)
    return None


def check_checkpoint(folder: Path) -> None:
    """Raise ModelError where one of a checkpoint's files is not what its description says."""
    _, files = read_description(folder / INFO_FILE)
    for name, sha256 in files.items():
        _check_file(folder / name, sha256)


def read_info(folder: Path) -> CheckpointInfo:
    """Read what a checkpoint says of itself.

    Raises ModelError for a folder that is no checkpoint, one of another version, or one whose name says
    another step.
    """
    return read_description(folder / INFO_FILE)[0]


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read one file of a checkpoint, checked against the hash that its description gives.

    Raises ModelError for a file that is missing, cut short or changed, or holds a NaN or an infinity.
    """
    path = folder / name
    _, files = read_description(folder / INFO_FILE)
    _check_file(path, files.get(name))
    tensors = read_safetensors(path, "Use another checkpoint.")
    if name != CRITIC_FILE:  # nothing is computed with it
        check_tensors(tensors, path)
    return tensors


def read_critic(folder: Path) -> dict[str, Tensor]:
    """What the checkpoint keeps beside the codec's network for `export`; mostly nothing."""
    _, files = read_description(folder / INFO_FILE)
    return read_tensors(folder, CRITIC_FILE) if CRITIC_FILE in files else {}


def load_dalle(folder: Path, *, device: torch.device) -> Dalle:
    """The model of a checkpoint, ready to draw, with the mean of its weights if it keeps one.

    Raises ModelError for weights that do not fit the hyper-parameters.
    """
    info, files = read_description(folder / INFO_FILE)
    weights = read_tensors(folder, _weights_file(files))
    return fill_dalle(info.model, weights, folder).to(device).eval()


def check_weights(folder: Path) -> None:
    """Check that the weights to draw with are those that the description names, without loading them.

    Raises ModelError for a checkpoint that is missing, cut short or changed.
    """
    _, files = read_description(folder / INFO_FILE)
    name = _weights_file(files)
    _check_file(folder / name, files.get(name))


def _weights_file(files: Collection[str]) -> str:
    """The file to draw with: the mean of the weights if the checkpoint keeps one."""
    return AVERAGE_FILE if AVERAGE_FILE in files else MODEL_FILE


def _check_file(path: Path, sha256: str | None) -> None:
    """Raise ModelError for a file that is not there, or has another hash."""
    check_regular(path)
    if sha256_file(path) != sha256:
        raise ModelError(
            f"{path} is not the file that {INFO_FILE} describes (sha256 differs): it was cut "
            "short or changed. Use another checkpoint."
        )


def fill_dalle(config: DalleConfig, weights: Mapping[str, Tensor], source: Path) -> Dalle:
    """The model of these hyper-parameters with weights that `read_tensors` or `read_foreign` gave.

    Raises ModelError, naming `source`, where they don't fit.
    """
    return fill(
        lambda: Dalle(config),
        weights,
        complaint=f"The weights of {source} don't fit its hyper-parameters",
        shape=lambda: Dalle(replace(config, attn_types=("full",), sparse_layout=None)),
    )
