"""Write a `dalle.pt` that dalle-pytorch 1.6.6, and services built on it, load. Floor 3.

`DALLE(vae=vae, **hparams).load_state_dict(weights)` takes it, where `vae` is the codec that it was
written with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.models.checkpoints.foreign import StockCodec
from pipeline.models.checkpoints.stock_file import CODEC_PREFIX
from pipeline.models.checkpoints.stock_names import (
    LAYOUT_LEAF,
    layer_prefix,
    stock_names,
    stock_shape,
    wrapper_count,
)
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.codecs.vqgan_files import read_vqgan_weights
from pipeline.models.dalle_config import DalleConfig
from pipeline.models.sparse_layout import layout_tensor
from pipeline.storage import atomic_write

VERSION = "1.6.6"
# Named always: their defaults differ from version to version.
HPARAMS = (
    "num_text_tokens",
    "text_seq_len",
    "dim",
    "depth",
    "heads",
    "dim_head",
    "reversible",
    "loss_img_weight",
    "attn_types",
    "ff_dropout",
    "attn_dropout",
    "stable",
    "shift_tokens",
    "rotary_emb",
)
# Named where they are not False or None: DALLE before 1.4.0 does not know them.
LATER_HPARAMS = ("sandwich_norm", "shared_attn_ids", "shared_ff_ids", "share_input_output_emb")


def write_dalle_pt(
    path: Path,
    *,
    config: DalleConfig,
    weights: Mapping[str, Tensor],
    codec: StockCodec | None = None,
    epoch: int = 0,
) -> None:
    """Write a model's `weights` (our names) as a `dalle.pt`, whole or not at all.

    Without `codec` the file lacks the `vae.*` tensors, and has to be loaded with `strict=False`. Raises
    ModelError for a model that dalle-pytorch can't have, StorageError when the disk refuses.
    """
    if config.conv_centred:
        raise ModelError(
            "The model's conv_like is the one before 1.5.0, which dalle-pytorch 1.6.6 no longer has: "
            "it would give other images there. Keep it in this project's format."
        )
    codec = codec or StockCodec(class_name=None, params=None, weights={})
    saved = {
        "hparams": stock_hparams(config),
        "vae_params": None if codec.params is None else dict(codec.params),
        "epoch": epoch,
        "version": VERSION,
        "vae_class_name": codec.class_name,
        "weights": {
            **{f"{CODEC_PREFIX}{name}": tensor.cpu() for name, tensor in codec.weights.items()},
            **stock_weights(config, weights),
        },
    }
    with atomic_write(path) as file:
        torch.save(saved, file)


def stock_hparams(config: DalleConfig) -> dict[str, Any]:
    """The arguments of `DALLE` but for the codec."""
    values = config.as_dict()
    later = {name: values[name] for name in LATER_HPARAMS if values[name]}
    return {name: values[name] for name in HPARAMS} | later


def stock_weights(config: DalleConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names of stock 1.6.6, with the layout of sparse attention."""
    named = {
        stock: weights[ours].detach().cpu().reshape(stock_shape(stock, weights[ours].shape))
        for stock, ours in stock_names(config)
    }
    for layer, kind in enumerate(config.layer_types):
        if kind == "sparse" and config.sparse_layout is not None:
            wrappers = "fn." * wrapper_count(config, 0)
            name = f"{layer_prefix(config, layer, 0)}{wrappers}{LAYOUT_LEAF}"
            named[name] = layout_tensor(config.sparse_layout, config.heads)
    return named


def stock_codec(codec: Codec, checkpoint: Path | None = None) -> StockCodec | None:
    """A codec as dalle-pytorch has it; None for a family that it doesn't know.

    A `VQGanVAE` also holds the critics of its training, which our codec leaves out: with the published
    `checkpoint` of the codec they are taken from there, so that the file loads strictly.
    """
    if isinstance(codec, DiscreteVAE):
        facts = codec.config
        params = {
            "image_size": facts.image_size,
            "num_layers": facts.num_layers,
            "num_tokens": facts.num_tokens,
            "codebook_dim": facts.codebook_dim,
            "hidden_dim": facts.hidden_dim,
            "num_resnet_blocks": facts.num_resnet_blocks,
            "normalization": (facts.means, facts.stds),
        }
        return StockCodec(class_name="DiscreteVAE", params=params, weights=codec.state_dict())
    if not isinstance(codec, VQGAN):
        return None
    weights = codec.state_dict() if checkpoint is None else read_vqgan_weights(checkpoint)
    return StockCodec(
        class_name="VQGanVAE",
        params=None,
        weights={f"model.{name}": tensor for name, tensor in weights.items()},
    )
