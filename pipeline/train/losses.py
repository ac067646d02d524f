"""Losses as numbers: their means over batches and ranks, and the loss on the validation split."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.distributed import Ranks, Stop
from pipeline.webdata.reader import ShardReader, TokenBatch

NAMES = ("loss", "loss_text", "loss_image")


def loss_values(loss: DalleLoss) -> Tensor:
    """The three losses as a detached float64 tensor [3], in the order of `NAMES`."""
    return torch.stack([loss.total, loss.text, loss.image]).detach().double()


def mean_losses(losses_S3: Tensor, weights: Sequence[float] | None = None) -> dict[str, float]:
    """Losses by name: the mean over all axes but the last, or weighted by `weights`, which sum to 1."""
    rows = losses_S3.reshape(-1, len(NAMES))
    if weights is None:
        means = rows.mean(dim=0)
    else:
        means = (rows * torch.tensor(weights, dtype=rows.dtype)[:, None]).sum(dim=0)
    return dict(zip(NAMES, means.tolist(), strict=True))


@torch.no_grad()
def validate(
    reader: ShardReader,
    ranks: Ranks,
    loss_of: Callable[[TokenBatch], DalleLoss],
    module: nn.Module,
    *,
    config: TrainConfig,
    stop: Stop,
) -> dict[str, float] | None:
    """Mean losses over the first samples of the split's seeded order: val_loss and its two parts.

    Each batch is split over the ranks. FSDP needs every rank to call the model equally often, so a rank with
    no samples left computes one and discards it. None if the ranks agree to stop on the way.
    """
    rows = reader.order(seed=config.seed, epoch=0)[: config.val_samples]
    whole = config.batch_size * ranks.size
    losses, weights = [], []
    module.eval()
    for start in range(0, len(rows), whole):
        if stop.agree():
            break
        mine = np.array_split(rows[start : start + whole], ranks.size)[ranks.rank]
        losses.append(loss_values(loss_of(reader.gather(mine if len(mine) else rows[:1]))))
        weights.append(len(mine) / len(rows))
    module.train()
    if stop.agreed:
        return None
    all_weights = ranks.gather(torch.tensor(weights, dtype=torch.float64)).flatten().tolist()
    means = mean_losses(ranks.gather(torch.stack(losses)), all_weights)
    return {f"val_{name}": value for name, value in means.items()}
