"""Losses as numbers: means over batches and ranks, and the sentence when one is not finite."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.models.dalle.model import DalleLoss

NAMES = ("loss", "loss_text", "loss_image")


def loss_values(loss: DalleLoss) -> Tensor:
    """The three losses, float64 [3] in the order of `NAMES`, without their graph."""
    return torch.stack([loss.total, loss.text, loss.image]).detach().double()


def mean_losses(losses_S3: Tensor, weights: Sequence[float] | None = None) -> dict[str, float]:
    """The mean over all but the last axis by name, or the sum weighted by `weights`, which add to 1."""
    rows = losses_S3.reshape(-1, len(NAMES))
    if weights is None:
        means = rows.mean(dim=0)
    else:
        means = (rows * torch.tensor(weights, dtype=rows.dtype)[:, None]).sum(dim=0)
    return dict(zip(NAMES, means.tolist(), strict=True))
