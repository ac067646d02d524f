"""Training batches from shards, the position to resume from, and the length of a run.

Length and progress count in steps with `--steps`, otherwise in passes through the samples. A run may be
resumed with a different number of processes, which changes the samples per step. With `--epochs`, the end
and the learning rate follow the samples, so neither moves: the schedule counts in steps of the run's
original size. With `--steps`, they follow the steps.

Legend: B samples of a batch, T text positions, N codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import PADDING_ID, Split
from pipeline.core.errors import ConfigError, ContractError, damaged
from pipeline.core.ownership import path_inside
from pipeline.core.storage import sha256_bytes
from pipeline.models.dalle.config import DalleConfig
from pipeline.train.config import ScheduleOptions, TrainConfig
from pipeline.webdata.index import INDEX_NAME
from pipeline.webdata.order import draw_numbers
from pipeline.webdata.reader import ShardReader, TokenBatch


@dataclass(frozen=True, kw_only=True)
class Position:
    """How far a run has read: `epoch` complete passes, and `consumed` samples of the current one."""

    epoch: int
    consumed: int


def stream_steps(
    reader: ShardReader,
    config: TrainConfig,
    position: Position,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[tuple[list[TokenBatch], Position]]:
    """For each step: one rank's `ga_steps` batches, and the position after the step.

    Endless if `steps` is set. Otherwise it ends after the last epoch, whose last step may have fewer
    batches.
    """
    whole = config.schedule.batch_size * world_size
    epoch, consumed = position.epoch, position.consumed
    batches: list[TokenBatch] = []
    while config.schedule.steps is not None or epoch < config.schedule.epochs:
        for batch in reader.batches(
            batch_size=config.schedule.batch_size,
            seed=config.seed,
            epoch=epoch,
            start=consumed,
            rank=rank,
            world_size=world_size,
        ):
            consumed += whole
            batches.append(drop_captions(batch, config, epoch))
            if len(batches) == config.schedule.ga_steps:
                ended = consumed + whole > len(reader)
                after = Position(epoch=epoch + ended, consumed=0 if ended else consumed)
                yield batches, after
                batches = []
        epoch, consumed = epoch + 1, 0
    if batches:
        yield batches, Position(epoch=epoch, consumed=0)


def drop_captions(batch: TokenBatch, config: TrainConfig, epoch: int) -> TokenBatch:
    """The batch with a share `null_cond_prob` of its captions replaced by padding.

    As in DALLE-pytorch's `forward(null_cond_prob=…)`, the padding is also the target of the text loss.
    The choice depends only on seed, epoch and sample, not on batch size or ranks.
    """
    if not config.model.null_cond_prob:
        return batch
    numbers_B = draw_numbers(batch.rows, seed=config.seed, epoch=epoch)
    kept_B1 = (numbers_B >= config.model.null_cond_prob)[:, None]
    return TokenBatch(np.where(kept_B1, batch.tokens_BT, PADDING_ID), batch.codes_BN, batch.rows)


class Rows(Protocol):
    """A batch, wherever it is."""

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows of the shards that its samples come from."""


def batch_keys(reader: ShardReader, batches: Sequence[Rows]) -> list[str]:
    """The keys of the samples in these batches."""
    return [reader.sample(int(row)).key for batch in batches for row in batch.rows]


def check_ids(reader: ShardReader, batch: TokenBatch, model: DalleConfig) -> None:
    """Raise ContractError, naming the sample, for an id outside the model's vocabularies."""
    for name, ids, size in (
        ("token id", batch.tokens_BT, model.num_text_tokens),
        ("code", batch.codes_BN, model.num_image_tokens),
    ):
        if ids.max(initial=0) < size:
            continue
        row = batch.rows[int(ids.max(axis=1).argmax())]
        raise ContractError(
            f"Sample {reader.sample(int(row)).key} has the {name} {ids.max()}, but the model has 0 to "
            f"{size - 1}. Train with a larger vocabulary, or shard with the right tokenizer and codec."
        )


def open_split(folder: Path, split: Split, *, skip_corrupt: bool, is_main: bool) -> ShardReader:
    """The reader of a split.

    Rank 0 alone verifies hashes, except with `skip_corrupt`, where all ranks must skip the same shards.
    Raises ContractError, naming the shard, for a damaged one unless `skip_corrupt` is set.
    """
    return ShardReader(
        folder, split, skip_corrupt=skip_corrupt, check_hashes=is_main or skip_corrupt
    )


def read_tokenizer(reader: ShardReader) -> bytes:
    """The shards' tokenizer file; raises ContractError if its hash differs from the index."""
    index = reader.index
    source = reader.folder / INDEX_NAME
    path = path_inside(reader.folder, index.tokenizer.file, source=source)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise damaged(f"{path} can't be read ({error.strerror}).") from error
    if sha256_bytes(data) != index.tokenizer.fingerprint:
        raise damaged(
            f"{path} is not the tokenizer that the captions were encoded with: its sha256 differs from "
            f"the one in {INDEX_NAME}."
        )
    return data


def check_samples(reader: ShardReader, config: TrainConfig, world_size: int = 1) -> None:
    """Raise ContractError for an empty split, ConfigError if it has fewer samples than a batch."""
    if len(reader) == 0:
        raise ContractError(
            f"{reader.folder} has no training samples. Shard a dataset that has training samples."
        )
    if config.schedule.batch_size * world_size > len(reader):
        of_all = f" in each of {world_size} processes" if world_size > 1 else ""
        raise ConfigError(
            f"A batch of {config.schedule.batch_size}{of_all} can't be filled from {len(reader)} training "
            f"samples. Give --batch-size {len(reader) // world_size or 1} or less"
            f"{', or fewer processes' if of_all else ''}."
        )


def step_samples(schedule: ScheduleOptions, ranks: int) -> int:
    """Samples per full step over all ranks."""
    if schedule.global_batch_size is not None:
        return schedule.global_batch_size
    return schedule.batch_size * schedule.ga_steps * ranks


def first_step_samples(schedule: ScheduleOptions, ranks: int, samples: int) -> int:
    """Samples in a new run's first step: a full step's, or fewer if all its epochs together have fewer."""
    whole, batch = step_samples(schedule, ranks), schedule.batch_size * ranks
    if schedule.steps is not None:
        return whole
    return min(whole, schedule.epochs * (samples // batch * batch))


@dataclass(frozen=True, kw_only=True)
class RunLength:
    """The length of a run on `samples` training samples.

    `ranks` is the current number of processes; `unit` is the samples per step when the run started.
    """

    schedule: ScheduleOptions
    samples: int
    ranks: int
    unit: int

    @property
    def batch(self) -> int:
        """Samples per forward pass over all ranks; an epoch drops a last batch that is not full."""
        return self.schedule.batch_size * self.ranks

    @property
    def pass_samples(self) -> int:
        """Samples used per epoch."""
        return self.samples // self.batch * self.batch

    @property
    def total(self) -> float:
        """Length of the run in steps of `unit` samples."""
        if self.schedule.steps is not None:
            return self.schedule.steps
        return self.schedule.epochs * self.pass_samples / self.unit

    def done(self, step: int, position: Position, samples: int) -> float:
        """Progress in steps of `unit`, after `step` steps on `samples` samples up to `position`.

        During warm-up it follows the samples trained on, afterwards the position in the epochs: with another
        number of ranks an epoch may drop more or fewer samples at its end.
        """
        if self.schedule.steps is not None:
            return step
        trained, warmup = samples / self.unit, self.schedule.warmup_steps
        if trained < warmup:
            return trained
        return max(warmup, (position.epoch * self.pass_samples + position.consumed) / self.unit)

    def steps_left(self, step: int, position: Position) -> int:
        """The number of steps left; the last one may have fewer batches."""
        if self.schedule.steps is not None:
            return max(0, self.schedule.steps - step)
        passes = self.schedule.epochs - position.epoch
        if passes <= 0:
            return 0
        batches = (self.samples - position.consumed) // self.batch
        batches += (passes - 1) * (self.pass_samples // self.batch)
        return -(-batches // self.schedule.ga_steps)
