from __future__ import annotations

import numpy as np
import pytest

from pipeline.webdata.order import cut_batches, permute


def test_an_order_has_every_row_once() -> None:
    assert sorted(permute(1000, seed=3, epoch=2).tolist()) == list(range(1000))


def test_an_order_never_changes() -> None:
    """Runs resume by it, so existing runs depend on these numbers."""
    assert permute(10, seed=0, epoch=0).tolist() == [9, 1, 3, 0, 5, 4, 7, 2, 6, 8]


def test_seed_and_epoch_both_matter() -> None:
    orders = [tuple(permute(50, seed=s, epoch=e)) for s in range(4) for e in range(4)]
    assert len(set(orders)) == 16


def test_an_order_is_well_mixed() -> None:
    order = permute(20_000, seed=1, epoch=0)
    correlation = np.corrcoef(order, np.arange(20_000))[0, 1]
    assert abs(correlation) < 0.03
    assert abs(np.diff(order).mean()) < 5


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_ranks_divide_all_samples_among_them(world_size: int) -> None:
    order = permute(103, seed=0, epoch=0)
    seen = [
        batch
        for rank in range(world_size)
        for batch in cut_batches(
            order, batch_size=4, rank=rank, world_size=world_size, drop_last=False
        )
    ]
    assert sorted(np.concatenate(seen).tolist()) == list(range(103))


def test_a_last_batch_that_is_not_full_is_dropped_on_every_rank() -> None:
    order = np.arange(23)
    for rank in range(2):
        batches = list(cut_batches(order, batch_size=4, rank=rank, world_size=2))
        assert [len(batch) for batch in batches] == [4, 4]


def test_a_run_resumes_exactly_with_another_number_of_ranks() -> None:
    order = permute(200, seed=9, epoch=1)

    def consumed(start: int, stop: int, batch_size: int, world_size: int) -> list[int]:
        ranks = [
            list(
                cut_batches(
                    order, batch_size=batch_size, start=start, rank=rank, world_size=world_size
                )
            )
            for rank in range(world_size)
        ]
        rows = [r for batches in zip(*ranks, strict=True) for b in batches for r in b.tolist()]
        return rows[: stop - start]

    before, after = consumed(0, 72, 6, 4), consumed(72, 200, 8, 2)
    assert before + after == order.tolist()
