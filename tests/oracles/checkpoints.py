"""Checkpoints of small stock models, and what has to be the same once they are read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline.models.checkpoints.foreign import ImportedModel
from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.model import Dalle
from tests.oracles.dalle import STOCK_FIELDS, own_logits, randomise, stock_dalle

PLAIN = DalleConfig(
    dim=20,
    depth=2,
    heads=2,
    dim_head=14,
    text_seq_len=5,
    num_text_tokens=11,
    num_image_tokens=13,
    image_fmap_size=4,
    loss_img_weight=3.0,
)


def trained_stock(config: DalleConfig) -> tuple[Any, torch.optim.Adam]:
    """A stock model after two steps, as `train_dalle.py` makes them, and its optimizer."""
    torch.manual_seed(0)
    model = stock_dalle(config)
    randomise(model)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        model(*make_batch(config), return_loss=True).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def make_batch(config: DalleConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens_BT = torch.randint(1, 11, (3, config.text_seq_len), generator=generator)
    tokens_BT[1, 2:] = 0
    return tokens_BT, torch.randint(0, 13, (3, config.image_seq_len), generator=generator)


def saved_dict(config: DalleConfig, model: Any) -> dict[str, Any]:
    return {
        "hparams": {
            name: getattr(config, name) for name in STOCK_FIELDS if name != "sandwich_norm"
        },
        "vae_params": None,
        "weights": model.state_dict(),
        "epoch": 4,
        "version": "1.6.6",
        "vae_class_name": "DiscreteVAE",
    }


def ours(imported: ImportedModel) -> Dalle:
    model = Dalle(imported.config)
    model.load_state_dict(dict(imported.weights))
    return model


def assert_same_logits(model: Dalle, stock: Any) -> None:
    batch = make_batch(model.config)
    model.eval()
    with torch.no_grad():
        for mine, theirs in zip(
            model.logits(*batch), own_logits(stock.eval(), *batch), strict=True
        ):
            scale = float(theirs.abs().max())
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4 * scale)


def assert_same_after_a_step(imported: ImportedModel, stock: Any, optimizer: Any) -> None:
    model = ours(imported).train()
    own = torch.optim.Adam(model.parameters(), lr=1e-3)
    assert imported.moments is not None
    for name, value in imported.moments.items():
        parameter, _, key = name.rpartition("/")
        own.state[model.get_parameter(parameter)][key] = value.clone()
    batch = make_batch(imported.config)
    model(*batch).total.backward()
    own.step()
    stock.train()(*batch, return_loss=True).backward()
    optimizer.step()
    assert_same_logits(model, stock)
