"""Ranks and workers divide an epoch: everything once, in one order, from any sample on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.webdata.reader import ShardReader

SEED, EPOCH = 5, 2


class Rows(torch.utils.data.IterableDataset[torch.Tensor]):
    """The rows of a rank's batches, read by the workers of a DataLoader."""

    def __init__(self, folder: Path, rank: int, world_size: int) -> None:
        self.folder, self.rank, self.world_size = folder, rank, world_size

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        batches = ShardReader(self.folder, "train").batches(
            batch_size=2,
            seed=SEED,
            epoch=EPOCH,
            rank=self.rank,
            world_size=self.world_size,
            worker=info.id if info else 0,
            workers=info.num_workers if info else 1,
            drop_last=False,
        )
        return (torch.from_numpy(batch.rows) for batch in batches)


def read(
    shards: Path, *, start: int, stop: int, batch_size: int, ranks: int, workers: int
) -> list[int]:
    """The rows that all ranks and workers read from `start` on, in the order of the epoch."""
    reader = ShardReader(shards, "train")
    by_rank = []
    for rank in range(ranks):
        streams = [
            list(
                reader.batches(
                    batch_size=batch_size,
                    seed=SEED,
                    epoch=EPOCH,
                    start=start,
                    rank=rank,
                    world_size=ranks,
                    worker=worker,
                    workers=workers,
                    drop_last=False,
                )
            )
            for worker in range(workers)
        ]
        turns = max(len(stream) for stream in streams)
        by_rank.append([s[turn] for turn in range(turns) for s in streams if turn < len(s)])
    rows = [row for step in zip(*by_rank, strict=True) for b in step for row in b.rows.tolist()]
    return rows[: stop - start]


@pytest.mark.parametrize("ranks", [1, 2, 4, 7])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_ranks_and_workers_read_everything_once(shards: Path, ranks: int, workers: int) -> None:
    """Seven ranks are more than the three shards."""
    rows = read(shards, start=0, stop=27, batch_size=2, ranks=ranks, workers=workers)
    assert rows == ShardReader(shards, "train").order(seed=SEED, epoch=EPOCH).tolist()


@pytest.mark.parametrize("at", [0, 6, 12, 18])
def test_a_run_resumes_with_other_ranks_and_workers(shards: Path, at: int) -> None:
    before = read(shards, start=0, stop=at, batch_size=3, ranks=2, workers=2)
    after = read(shards, start=at, stop=27, batch_size=2, ranks=3, workers=1)
    assert before + after == ShardReader(shards, "train").order(seed=SEED, epoch=EPOCH).tolist()


def test_more_ranks_than_samples_leave_some_with_nothing(shards: Path) -> None:
    reader = ShardReader(shards, "val")
    seen = [
        np.concatenate(
            [
                np.zeros(0, np.int64),
                *(
                    batch.rows
                    for batch in reader.batches(
                        batch_size=1, seed=0, epoch=0, rank=rank, world_size=5, drop_last=False
                    )
                ),
            ]
        ).tolist()
        for rank in range(5)
    ]
    assert sorted(row for rows in seen for row in rows) == [0, 1, 2]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_yields_a_ranks_batches_in_order(shards: Path, workers: int) -> None:
    order = ShardReader(shards, "train").order(seed=SEED, epoch=EPOCH)
    seen: list[list[list[int]]] = []
    for rank in range(2):
        loader = torch.utils.data.DataLoader(
            Rows(shards, rank, 2), batch_size=None, num_workers=workers
        )
        seen.append([rows.tolist() for rows in loader])
    both = [row for step in zip(*seen, strict=True) for rows in step for row in rows]
    assert both == order.tolist()
