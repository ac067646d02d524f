"""The loss on samples that training never sees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from pipeline.models.dalle.model import DalleLoss
from pipeline.train.config import TrainConfig
from pipeline.train.losses import loss_values, mean_losses
from pipeline.train.ranks import Ranks
from pipeline.train.stopping import Stop
from pipeline.webdata.reader import ShardReader, TokenBatch


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
    """Mean losses over the first samples of the split's seeded order: val_loss, and of text and image.

    Ranks share each batch out. Every rank calls the model as often as the others, which FSDP needs: one
    that has no sample left computes one for nothing. None where all are to stop on the way.
    """
    rows = reader.order(seed=config.seed, epoch=0)[: config.val_samples]
    whole = config.batch_size * ranks.size
    losses, weights = [], []
    module.eval()
    for start in range(0, len(rows), whole):
        if stop.ask_all():
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
