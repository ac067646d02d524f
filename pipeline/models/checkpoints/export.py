"""Write a `dalle.pt` for dalle-pytorch 1.6.6 and services built on it.

It loads with `DALLE(vae=vae, **hparams).load_state_dict(weights)`, where `vae` is the codec it was written
with.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.core.outputs import write_output
from pipeline.models.checkpoints.critic import with_critic
from pipeline.models.checkpoints.dalle_pytorch import CODEC_PREFIX
from pipeline.models.checkpoints.dalle_pytorch_names import (
    LAYOUT_LEAF,
    layer_prefix,
    name_pairs,
    their_shape,
    wrapper_count,
)
from pipeline.models.checkpoints.foreign import DallePytorchCodec
from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.discrete_vae import DiscreteVAE
from pipeline.models.codecs.dvae import OpenAIDVAE, published_names
from pipeline.models.codecs.vqgan import VQGAN
from pipeline.models.dalle.config import HPARAMS, DalleConfig
from pipeline.models.dalle.sparse_layout import layout_tensor

VERSION = "1.6.6"
IMAGE_SIDE = 256  # fixed image size, in pixels, of its classes for published codecs


def write_dalle_pt(
    path: Path,
    *,
    config: DalleConfig,
    weights: Mapping[str, Tensor],
    codec: DallePytorchCodec | None = None,
    epoch: int = 0,
    overwrite: bool = True,
) -> bool:
    """Write a model's `weights` (our names) as a `dalle.pt`, atomically.

    Returns False if the file already had the same bytes. Without `codec` the file lacks the `vae.*` tensors
    and must be loaded with `strict=False`. Raises ModelError for a model that dalle-pytorch does not
    support, StorageError if writing fails, ConfigError if the file exists with different content and
    `overwrite` is off.
    """
    if config.conv_centred:
        raise ModelError(
            "The model uses the conv_like attention from before 1.5.0, which dalle-pytorch 1.6.6 no longer "
            "has: it would generate different images. Keep the model in this project's format."
        )
    codec = codec or DallePytorchCodec(class_name=None, params=None, weights={})
    saved = {
        "hparams": dalle_pytorch_hparams(config),
        "vae_params": None if codec.params is None else dict(codec.params),
        "epoch": epoch,
        "version": VERSION,
        "vae_class_name": codec.class_name,
        "weights": {
            **{f"{CODEC_PREFIX}{name}": tensor.cpu() for name, tensor in codec.weights.items()},
            **dalle_pytorch_weights(config, weights),
        },
    }
    with write_output(path, kind="dalle.pt", magic=b"PK", overwrite=overwrite) as output:
        torch.save(saved, output.file)
    return not output.unchanged


def dalle_pytorch_hparams(config: DalleConfig) -> dict[str, Any]:
    """The arguments of `DALLE`, except the codec."""
    values = config.as_dict()
    return {
        name: values[name] for name, kind in HPARAMS.items() if kind != "if set" or values[name]
    }


def dalle_pytorch_weights(config: DalleConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our weights under the names of 1.6.6, with the sparse attention layout."""
    named = {
        theirs: weights[ours].detach().cpu().reshape(their_shape(theirs, weights[ours].shape))
        for theirs, ours in name_pairs(config)
    }
    for layer, kind in enumerate(config.layer_types):
        if kind == "sparse" and config.sparse_layout is not None:
            wrappers = "fn." * wrapper_count(config, 0)
            name = f"{layer_prefix(config, layer, 0)}{wrappers}{LAYOUT_LEAF}"
            named[name] = layout_tensor(config.sparse_layout, config.heads)
    return named


def dalle_pytorch_codec(
    codec: Codec, critic: Mapping[str, Tensor] | None = None
) -> DallePytorchCodec | None:
    """A codec in dalle-pytorch's form; None for a family that it doesn't support.

    `critic`: the additional tensors of its `VQGanVAE` (see `critic`).
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
        return DallePytorchCodec(
            class_name="DiscreteVAE", params=params, weights=codec.state_dict()
        )
    if isinstance(codec, VQGAN):
        weights = with_critic(codec, critic or {})
        return DallePytorchCodec(class_name="VQGanVAE", params=None, weights=weights)
    if isinstance(codec, OpenAIDVAE):
        weights = published_names(codec.state_dict())
        return DallePytorchCodec(class_name="OpenAIDiscreteVAE", params=None, weights=weights)
    return None


def why_not_loadable(codec: Codec) -> str | None:
    """Why dalle-pytorch's class for this codec can't decode the model's codes; None if it can.

    Its VQGanVAE assumes images of 256 pixels, and that the finest level with attention is the coarsest one.
    """
    if isinstance(codec, DiscreteVAE) and codec.image_size & (codec.image_size - 1):
        return f"its DiscreteVAE needs images of 2^n pixels, this codec has {codec.image_size}"
    if isinstance(codec, OpenAIDVAE) and codec.image_size != IMAGE_SIDE:
        return f"its OpenAIDiscreteVAE has images of {IMAGE_SIDE} pixels, not {codec.image_size}"
    if not isinstance(codec, VQGAN):
        return None
    sizes = codec.config.attention_sizes
    if codec.image_size != IMAGE_SIDE:
        return f"its VQGanVAE has images of {IMAGE_SIDE} pixels, this codec has {codec.image_size}"
    if not sizes or codec.config.training_size // sizes[0] != codec.downsampling:
        return "its VQGanVAE derives the size of a code from attn_resolutions, which is wrong for this codec"
    return None
