"""Our checkpoint format: a folder of safetensors files and a JSON that describes them.

    step-000500/
      checkpoint.json        format, hyper-parameters, training position, inputs
      model.safetensors      the weights
      optimizer.safetensors  moments and steps, `<parameter>/<state>`
      average.safetensors    the moving average of the weights, if enabled; used for sampling
      rng.safetensors        states of the random number generators
      critic.safetensors     the critic of the codec's training, for a run that started from a dalle.pt

The folder is renamed into place once complete. `series` decides which folders are checkpoints.
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
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.storage import sha256_bytes, sha256_file, write_bytes, write_json
from pipeline.models.checkpoints.info import FORMAT, read_checkpoint_json
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
    """Write `files` (name → tensors) and their description to `folder`, atomically.

    Raises StorageError if writing fails.
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
    """The last intact checkpoint in `folder`, with all hashes verified; None if there is none.

    A warning is logged for each damaged one that is skipped.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            check_checkpoint(path)
            return path
        except ModelError as error:
            logger.warning("Skipped the damaged checkpoint %s: %s", path, error)
    return None


def check_checkpoint(folder: Path) -> None:
    """Verify a checkpoint's files; raises ModelError if one is missing or its hash differs."""
    _, files = read_checkpoint_json(folder / INFO_FILE)
    for name, sha256 in files.items():
        _check_file(folder / name, sha256)


def read_info(folder: Path) -> CheckpointInfo:
    """Read a checkpoint's metadata.

    Raises ModelError for a folder that isn't a checkpoint, has another version, or has another step in its
    name.
    """
    return read_checkpoint_json(folder / INFO_FILE)[0]


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Read one file of a checkpoint, verified against its recorded hash.

    Raises ModelError for a file that is missing, truncated or modified, or contains NaN or infinity.
    """
    path = folder / name
    _, files = read_checkpoint_json(folder / INFO_FILE)
    _check_file(path, files.get(name))
    tensors = read_safetensors(path, "Use another checkpoint.")
    if name != CRITIC_FILE:  # not used in any computation
        check_tensors(tensors, path)
    return tensors


def read_critic(folder: Path) -> dict[str, Tensor]:
    """The critic's tensors kept for `export`; empty for most checkpoints."""
    _, files = read_checkpoint_json(folder / INFO_FILE)
    return read_tensors(folder, CRITIC_FILE) if CRITIC_FILE in files else {}


def load_dalle(folder: Path, *, device: torch.device) -> Dalle:
    """The model of a checkpoint in eval mode, with its averaged weights if it has them.

    Raises ModelError for weights that don't match the hyper-parameters.
    """
    info, files = read_checkpoint_json(folder / INFO_FILE)
    weights = read_tensors(folder, _weights_file(files))
    return build_dalle(info.model, weights, folder).to(device).eval()


def check_weights(folder: Path) -> None:
    """Verify the hash of the weights used for sampling, without loading them.

    Raises ModelError for a checkpoint that is missing, truncated or modified.
    """
    _, files = read_checkpoint_json(folder / INFO_FILE)
    name = _weights_file(files)
    _check_file(folder / name, files.get(name))


def _weights_file(files: Collection[str]) -> str:
    """The weights file used for sampling: the averaged weights if the checkpoint has them."""
    return AVERAGE_FILE if AVERAGE_FILE in files else MODEL_FILE


def _check_file(path: Path, sha256: str | None) -> None:
    """Raise ModelError for a file that is missing or has another hash."""
    check_regular(path)
    if sha256_file(path) != sha256:
        raise ModelError(
            f"{path} is not the file that {INFO_FILE} describes (sha256 differs): it was truncated or "
            "modified. Use another checkpoint."
        )


def build_dalle(config: DalleConfig, weights: Mapping[str, Tensor], source: Path) -> Dalle:
    """A model with these hyper-parameters and weights from `read_tensors` or `read_foreign`.

    Raises ModelError, naming `source`, if they don't match.
    """
    return fill(
        lambda: Dalle(config),
        weights,
        complaint=f"The weights of {source} don't match its hyper-parameters",
        shape=lambda: Dalle(replace(config, attn_types=("full",), sparse_layout=None)),
    )
