"""DALLE-pytorch's own `DALLE`, with the weights of one of our models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.checkpoints.dalle_pytorch_names import name_pairs, their_shape
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from tests.oracles.codecs import dalle_pytorch

STOCK_FIELDS = (
    "dim",
    "depth",
    "heads",
    "dim_head",
    "text_seq_len",
    "num_text_tokens",
    "reversible",
    "attn_dropout",
    "ff_dropout",
    "attn_types",
    "loss_img_weight",
    "stable",
    "sandwich_norm",
    "shift_tokens",
    "rotary_emb",
    "shared_attn_ids",
    "shared_ff_ids",
    "share_input_output_emb",
)


def stock_vae(config: DalleConfig) -> Any:
    """A small `DiscreteVAE` that makes images of the model's size."""
    layers = 1
    return dalle_pytorch().DiscreteVAE(
        image_size=config.image_fmap_size * 2**layers,
        num_tokens=config.num_image_tokens,
        codebook_dim=4,
        num_layers=layers,
        hidden_dim=4,
    )


def stock_dalle(config: DalleConfig, **changes: Any) -> Any:
    """A new `DALLE` of these hyper-parameters."""
    fields = {name: getattr(config, name) for name in STOCK_FIELDS}
    return dalle_pytorch().DALLE(vae=stock_vae(config), **{**fields, **changes})


def stock_twin(model: Dalle, **changes: Any) -> Any:
    """A `DALLE` with the weights of `model`, written under the stock names."""
    twin = stock_dalle(model.config, **changes)
    ours = model.state_dict()
    weights = {
        stock: ours[name].reshape(their_shape(stock, ours[name].shape))
        for stock, name in name_pairs(model.config)
    }
    missing = twin.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert all(name.startswith("vae.") for name in missing.missing_keys)
    return twin.train(model.training)


def own_logits(stock: Any, tokens_BT: Tensor, codes_BN: Tensor) -> tuple[Tensor, Tensor]:
    """The stock logits that are not masked: text ids at text positions, codes at image positions."""
    logits_BLV = stock(tokens_BT.clone(), codes_BN)
    text, split = stock.text_seq_len, stock.num_text_tokens
    return logits_BLV[:, :text, :split], logits_BLV[:, text:, split:]


def randomise(model: torch.nn.Module, std: float = 0.3) -> None:
    """Weights at which every part of the model matters: scales of 0.1 would hide what layers do."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=std)
