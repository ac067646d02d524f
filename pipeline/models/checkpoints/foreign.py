"""Models of DALLE-pytorch, 0.9 to 1.6.6: a `dalle.pt`, or a folder of DeepSpeed. Floor 3.

`read_foreign` gives hyper-parameters, weights and Adam's moments under our names, ready for
`Dalle(config).load_state_dict(weights)` and for an `optimizer.safetensors`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.checkpoints.deepspeed import read_deepspeed
from pipeline.models.checkpoints.stock_config import StockTensors, differences, settle_config
from pipeline.models.checkpoints.stock_file import CODEC_PREFIX, StockCheckpoint, read_dalle_pt
from pipeline.models.checkpoints.stock_names import our_name, stock_names
from pipeline.models.dalle_config import DalleConfig
from pipeline.models.rotary import rotary_angles

logger = logging.getLogger(__name__)

ANGLES = "transformer.angles_LR"


@dataclass(frozen=True, kw_only=True)
class StockCodec:
    """The image codec of a stock checkpoint, as it is saved there.

    `class_name` (`VQGanVAE`, `OpenAIDiscreteVAE`, `DiscreteVAE`) is known since 1.1.6; `params` are a
    `DiscreteVAE`'s hyper-parameters, None for the published codecs; `weights` its `vae.*` tensors
    without that prefix.
    """

    class_name: str | None
    params: Mapping[str, Any] | None
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A model of DALLE-pytorch.

    `weights` are float32 under our names; `moments` what our optimizer file holds
    (`PARAMETER/exp_avg`, `…/exp_avg_sq`, `…/step`), None where the checkpoint has none; `epoch` how many
    were begun; `version` of the dalle-pytorch that wrote it, known since 1.1.6.
    """

    config: DalleConfig
    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor] | None
    learning_rate: float | None
    epoch: int
    version: str | None
    codec: StockCodec


def read_foreign(path: Path, *, redraw_layout: int | None = None) -> Imported:
    """Read a `dalle.pt`, or a DeepSpeed folder (the one with `latest`, or one step's).

    `redraw_layout` is the seed of a layout for sparse attention where the checkpoint carries none.
    Raises ModelError for a file that is cut short or holds code, for tensors that make no model or are
    not all there, and for sparse attention whose layout is missing while none is to be drawn.
    """
    stock = read_deepspeed(path) if path.is_dir() else read_dalle_pt(path)
    version = stock.facts.get("version")
    try:
        tensors = StockTensors.of(stock.weights)
        config = settle_config(stock.hparams, tensors, version=version, redraw_layout=redraw_layout)
        weights = dict(_our_weights(stock.weights, config))
        _check_complete(weights, config)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    for difference in differences(stock.hparams, config):
        logger.warning("%s says %s; its tensors count", path, difference)
    return Imported(
        config=config,
        weights=weights,
        moments=_our_moments(stock, config),
        learning_rate=stock.learning_rate,
        epoch=int(stock.facts.get("epoch") or 0),
        version=version,
        codec=_codec(stock),
    )


def _our_weights(
    stock_weights: Mapping[str, Tensor], config: DalleConfig
) -> Iterator[tuple[str, Tensor]]:
    for stock, tensor in stock_weights.items():
        name = our_name(stock, config)
        if name is not None:
            tensor = our_shape(name, tensor.float(), config)
            yield name, _whole_angles(tensor, config) if name == ANGLES else tensor


def our_shape(name: str, tensor: Tensor, config: DalleConfig) -> Tensor:
    """A stock tensor without the axes of length 1 that ours don't have."""
    if name.startswith("image_pos_emb."):
        return tensor.reshape(-1, config.dim)
    if name == ANGLES:
        return tensor.reshape(-1, tensor.shape[-1])
    return tensor.reshape(-1) if name.endswith(".scale") else tensor


def _whole_angles(angles_LR: Tensor, config: DalleConfig) -> Tensor:
    """Angles of all positions: up to 1.1.2 the last one was left out."""
    whole_LR = rotary_angles(config)
    return torch.cat((angles_LR, whole_LR[len(angles_LR) :]))


def _check_complete(weights: Mapping[str, Tensor], config: DalleConfig) -> None:
    missing = sorted({name for _, name in stock_names(config)} - set(weights))
    if missing:
        raise ModelError(
            f"{len(missing)} tensors of the model are missing, the first is {missing[0]}. "
            "Give a whole checkpoint."
        )


def _our_moments(stock: StockCheckpoint, config: DalleConfig) -> Mapping[str, Tensor] | None:
    if stock.moments is None:
        return None
    moments = {}
    for stock_name, states in stock.moments.items():
        name = our_name(stock_name, config)
        assert name is not None
        for key in ("exp_avg", "exp_avg_sq"):
            moments[f"{name}/{key}"] = our_shape(name, states[key].float(), config)
        # Of its own: ZeRO has one count for all, to which the step of every parameter would add.
        moments[f"{name}/step"] = torch.tensor(float(states["step"]))
    return moments


def _codec(stock: StockCheckpoint) -> StockCodec:
    return StockCodec(
        class_name=stock.facts.get("vae_class_name"),
        params=stock.facts.get("vae_params"),
        weights={
            name.removeprefix(CODEC_PREFIX): tensor
            for name, tensor in stock.weights.items()
            if name.startswith(CODEC_PREFIX) and tensor.numel() > 0  # ZeRO 3 leaves them empty
        },
    )
