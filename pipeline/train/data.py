"""Batches from shards, endlessly, with the place to go on from.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import ConfigError, ContractError, ModelError
from pipeline.models.dalle_config import DalleConfig
from pipeline.train.config import TrainConfig
from pipeline.webdata.index import ShardIndex
from pipeline.webdata.reader import Batch, ShardReader


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has read: `consumed` samples of the order of `epoch`."""

    epoch: int
    consumed: int


def stream_batches(
    reader: ShardReader, *, batch_size: int, seed: int, position: Position
) -> Iterator[tuple[Batch, Position]]:
    """Batches from `position` on, epoch after epoch, each with the position after it."""
    epoch, consumed = position.epoch, position.consumed
    while True:
        for batch in reader.batches(
            batch_size=batch_size, seed=seed, epoch=epoch, start=consumed, drop_last=True
        ):
            consumed += batch_size
            yield batch, Position(epoch=epoch, consumed=consumed)
        epoch, consumed = epoch + 1, 0


def to_tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
    """A batch as tokens_BT and codes_BN, int64."""
    tokens_BT = torch.from_numpy(batch.tokens_BT).to(device, torch.int64)
    return tokens_BT, torch.from_numpy(batch.codes_BN).to(device, torch.int64)


def batch_keys(reader: ShardReader, batch: Batch) -> list[str]:
    """The keys of a batch's samples."""
    return [reader.sample(int(row)).key for row in batch.rows]


def check_samples(reader: ShardReader, config: TrainConfig) -> None:
    """Raise ContractError for an empty split, ConfigError for a batch that it can't fill."""
    if len(reader) == 0:
        raise ContractError(
            f"{reader.folder} has no training samples. Shard a dataset that has some."
        )
    if config.batch_size > len(reader):
        raise ConfigError(
            f"A batch of {config.batch_size} can't be filled from {len(reader)} training samples. "
            f"Give --batch-size {len(reader)} or less."
        )


def count_steps(samples: int, config: TrainConfig) -> int:
    """How many steps the run takes: `steps`, or what `epochs` whole passes make."""
    if config.steps is not None:
        return config.steps
    batches = samples // config.batch_size
    return max(1, config.epochs * batches // config.ga_steps)


def model_config(index: ShardIndex, config: TrainConfig) -> DalleConfig:
    """The hyper-parameters of a model that fits the shards.

    Raises ModelError where the picture's codes are not a square.
    """
    rows, columns = index.grid
    if rows != columns:
        raise ModelError(
            f"The shards hold {rows}×{columns} codes a picture, the model takes square ones. "
            "Encode with a codec of square pictures."
        )
    return DalleConfig(
        dim=config.dim,
        depth=config.depth,
        heads=config.heads,
        dim_head=config.dim_head,
        attn_dropout=config.attn_dropout,
        ff_dropout=config.ff_dropout,
        loss_img_weight=config.loss_img_weight,
        text_seq_len=index.text_seq_len,
        num_text_tokens=index.vocab_size,
        num_image_tokens=index.codebook_size,
        image_fmap_size=rows,
    )
