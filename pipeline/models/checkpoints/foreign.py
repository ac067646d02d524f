"""Import models of DALLE-pytorch 0.9 to 1.6.6: a `dalle.pt`, or a DeepSpeed checkpoint.

`read_foreign` returns hyper-parameters, weights and Adam's moments under our names, ready for
`Dalle(config).load_state_dict(weights)` and for an `optimizer.safetensors`.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.checkpoints.consolidated import (
    is_by_name,
    is_consolidated,
    read_consolidated,
)
from pipeline.models.checkpoints.dalle_pytorch import (
    CODEC_PREFIX,
    DallePytorchCheckpoint,
    parse_dalle_pt,
)
from pipeline.models.checkpoints.dalle_pytorch_config import (
    DallePytorchTensors,
    differences,
    infer_config,
)
from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs, our_name
from pipeline.models.checkpoints.deepspeed import (
    is_states,
    read_deepspeed,
    read_states,
    with_auxiliary,
)
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.rotary import rotary_angles
from pipeline.models.description import plain
from pipeline.models.torch_files import read_torch_file
from pipeline.models.weights import check_tensors

logger = logging.getLogger(__name__)

ANGLES = "transformer.angles_LR"


@dataclass(frozen=True, kw_only=True)
class DallePytorchCodec:
    """The image codec in a dalle-pytorch checkpoint.

    `class_name` (`VQGanVAE`, `OpenAIDiscreteVAE`, `DiscreteVAE`) is recorded since 1.1.6; `params` are a
    `DiscreteVAE`'s hyper-parameters, None for published codecs; `weights` are its `vae.*` tensors without
    that prefix.
    """

    class_name: str | None
    params: Mapping[str, Any] | None
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model imported from DALLE-pytorch.

    `weights` are float32 under our names; `moments` are in the form of our optimizer file
    (`PARAMETER/exp_avg`, `…/exp_avg_sq`, `…/step`), None if the checkpoint has none; `epoch` counts epochs
    started; `version` is the dalle-pytorch that wrote it, recorded since 1.1.6.
    """

    config: DalleConfig
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None
    learning_rate: float | None
    epoch: int
    version: str | None
    codec: DallePytorchCodec


def read_foreign(path: Path, *, redraw_layout: int | None = None) -> ImportedModel:
    """Read a `dalle.pt`, a DeepSpeed folder (the one with `latest`, or a step's), or a file from one.

    `redraw_layout`: the seed for a new sparse attention layout if the checkpoint has none. Raises
    ModelError for a file that is truncated or contains code, for missing tensors or ones that don't make a
    model, and for sparse attention without a layout if `redraw_layout` is None.
    """
    theirs = read_dalle_pytorch(path)
    version = theirs.facts.get("version")
    try:
        tensors = DallePytorchTensors.of(theirs.weights)
        config = infer_config(theirs.hparams, tensors, version=version, redraw_layout=redraw_layout)
        weights = _our_weights(theirs.weights, config, path)
    except ModelError as error:
        raise error if str(path) in str(error) else ModelError(f"{path}: {error}") from error
    for difference in differences(theirs.hparams, config):
        logger.warning("In the hparams of %s, %s: using the tensors'", path, difference)
    return ImportedModel(
        config=config,
        weights=weights,
        moments=_our_moments(theirs, config),
        learning_rate=theirs.learning_rate,
        epoch=_epoch(theirs.facts.get("epoch")),
        version=version if isinstance(version, str) else None,
        codec=_codec(theirs),
    )


def read_dalle_pytorch(path: Path) -> DallePytorchCheckpoint:
    """Read the checkpoint at `path`, whichever of the formats it has.

    A DeepSpeed folder, or a file: a `dalle.pt`, DeepSpeed's model states, or consolidated weights. Raises
    ModelError for anything else.
    """
    if path.is_dir():
        return read_deepspeed(path)
    if is_by_name(path):
        return with_auxiliary(read_consolidated(path), path)
    saved = read_torch_file(path)
    if is_states(saved):
        return read_states(saved, path)
    if is_consolidated(saved):
        return with_auxiliary(read_consolidated(path), path)
    return parse_dalle_pt(saved, path)


def _our_weights(
    dalle_pytorch_weights: Mapping[str, Tensor], config: DalleConfig, path: Path
) -> dict[str, Tensor]:
    """The model's tensors, each once, as float32 under our names."""
    names = {
        ours: theirs
        for theirs in dalle_pytorch_weights
        if (ours := our_name(theirs, config)) is not None and is_part(ours, config)
    }
    _check_complete(names, config)
    check_tensors({theirs: dalle_pytorch_weights[theirs] for theirs in names.values()}, path)
    weights = {
        ours: our_shape(ours, dalle_pytorch_weights[theirs].float(), config)
        for ours, theirs in names.items()
    }
    if ANGLES in weights:
        weights[ANGLES] = _whole_angles(weights[ANGLES], config)
    return weights


def is_part(name: str, config: DalleConfig) -> bool:
    """Whether a model with these hyper-parameters uses the tensor: some files have unused angles."""
    return name != ANGLES or config.rotary_emb


def our_shape(name: str, tensor: Tensor, config: DalleConfig) -> Tensor:
    """One of their tensors without the axes of length 1 that ours don't have."""
    if name.startswith("image_pos_emb.") and tensor.numel() % config.dim == 0:
        return tensor.reshape(-1, config.dim)
    if name == ANGLES and tensor.ndim:
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.reshape(-1) if name.endswith(".scale") else tensor


def _whole_angles(angles_LR: Tensor, config: DalleConfig) -> Tensor:
    """Angles of all positions; files up to 1.1.2 leave out the last one."""
    whole_LR = rotary_angles(config)
    if angles_LR.shape[1:] != whole_LR.shape[1:]:
        return angles_LR  # another head width: rejected when it is loaded into the model
    return torch.cat((angles_LR, whole_LR[len(angles_LR) :]))


def _check_complete(names: Collection[str], config: DalleConfig) -> None:
    missing = sorted({name for _, name in name_pairs(config)} - set(names))
    if missing:
        raise ModelError(
            f"{len(missing)} tensors of the model are missing, the first is {missing[0]}. "
            "Give a complete checkpoint."
        )


def _our_moments(
    theirs: DallePytorchCheckpoint, config: DalleConfig
) -> Mapping[str, Tensor] | None:
    if theirs.moments is None:
        return None
    moments = {}
    for their_name, states in theirs.moments.items():
        name = our_name(their_name, config)
        if name is None:  # some other model's optimizer
            return None
        for key in ("exp_avg", "exp_avg_sq"):
            moments[f"{name}/{key}"] = our_shape(name, states[key].float(), config)
        # A separate tensor each: ZeRO shares one count, which every parameter's step would increment.
        moments[f"{name}/step"] = torch.tensor(float(plain(states["step"])))
    return moments


def _epoch(found: Any) -> int:
    found = plain(found)
    return int(found) if isinstance(found, (int, float)) and 0 <= found < 1 << 31 else 0


def _codec(theirs: DallePytorchCheckpoint) -> DallePytorchCodec:
    class_name = theirs.facts.get("vae_class_name")
    return DallePytorchCodec(
        class_name=class_name if isinstance(class_name, str) else None,
        params=theirs.facts.get("vae_params"),
        weights={
            name.removeprefix(CODEC_PREFIX): tensor
            for name, tensor in theirs.weights.items()
            if name.startswith(CODEC_PREFIX) and tensor.numel() > 0  # ZeRO 3 leaves them empty
        },
    )
