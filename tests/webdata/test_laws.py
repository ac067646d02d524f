"""Shards: laws of their order, and of their bytes beside Python's own tarfile."""

from __future__ import annotations

import io
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.webdata.order import choose_views, cut_batches, draw_numbers, permute
from pipeline.webdata.tar import (
    is_key,
    open_shard,
    table_path,
    tar_bytes,
)
from tests.helpers.laws import lawful

seeds = st.integers(-(2**63), 2**64)
epochs = st.integers(0, 10_000)


# --- The order -----------------------------------------------------------------------------------


def test_the_order_is_the_same_for_ever() -> None:
    """Runs that resume count on these very numbers: they never change."""
    assert permute(10, seed=0, epoch=0).tolist() == [9, 1, 3, 0, 5, 4, 7, 2, 6, 8]
    assert permute(10, seed=7, epoch=3).tolist() == [7, 6, 5, 3, 2, 0, 8, 4, 9, 1]
    assert choose_views(np.arange(10), 3, seed=0, epoch=0).tolist() == [
        2,
        1,
        0,
        0,
        1,
        1,
        2,
        0,
        0,
        2,
    ]
    assert draw_numbers(np.arange(3), seed=0, epoch=0).tolist() == pytest.approx(
        [0.09899374104691572, 0.48633859492070863, 0.3786765735328784]
    )


@lawful(60)
@given(samples=st.integers(0, 300), seed=seeds, epoch=epochs)
def test_an_order_has_every_row_once(samples: int, seed: int, epoch: int) -> None:
    assert sorted(permute(samples, seed=seed, epoch=epoch).tolist()) == list(range(samples))


@lawful(60)
@given(samples=st.integers(0, 300), more=st.integers(0, 50), seed=seeds, epoch=epochs)
def test_more_samples_leave_the_order_of_those_before(
    samples: int, more: int, seed: int, epoch: int
) -> None:
    grown = permute(samples + more, seed=seed, epoch=epoch)
    before = permute(samples, seed=seed, epoch=epoch)
    assert grown[grown < samples].tolist() == before.tolist()


@lawful(150)
@given(
    samples=st.integers(0, 120),
    batch_size=st.integers(1, 9),
    world_size=st.integers(1, 5),
    workers=st.integers(1, 3),
    drop_last=st.booleans(),
    start=st.integers(0, 130),
)
def test_ranks_and_workers_share_every_batch_out_whatever_their_number(
    samples: int, batch_size: int, world_size: int, workers: int, drop_last: bool, start: int
) -> None:
    order = permute(samples, seed=1, epoch=2)
    whole = batch_size * world_size
    by_rank = []
    for rank in range(world_size):
        parts = [
            list(
                cut_batches(
                    order, batch_size=batch_size, start=start, rank=rank, world_size=world_size,
                    worker=worker, workers=workers, drop_last=drop_last,
                )
            )
            for worker in range(workers)
        ]  # fmt: skip
        turns = max(map(len, parts))
        by_rank.append([p[turn] for turn in range(turns) for p in parts if turn < len(p)])
    # All ranks together read the order from `start` on, in batches of all ranks.
    together = [row for batch in zip(*by_rank, strict=True) for part in batch for row in part]
    left = order[start:]
    count = len(left) // whole * whole if drop_last else len(left)
    assert together == left[:count].tolist()
    for batch in zip(*by_rank, strict=True):
        sizes = [len(part) for part in batch]
        assert max(sizes) - min(sizes) <= 1
        assert sizes == sorted(sizes, reverse=True)


@lawful(40)
@given(seed=seeds, epoch=epochs, views=st.integers(1, 10))
def test_views_and_numbers_go_by_the_row_alone(seed: int, epoch: int, views: int) -> None:
    rows = np.arange(100)
    chosen = choose_views(rows, views, seed=seed, epoch=epoch)
    drawn = draw_numbers(rows, seed=seed, epoch=epoch)
    assert ((chosen >= 0) & (chosen < views)).all()
    assert ((drawn >= 0) & (drawn < 1)).all()
    some = np.array([7, 3, 99])
    assert choose_views(some, views, seed=seed, epoch=epoch).tolist() == chosen[some].tolist()
    assert draw_numbers(some, seed=seed, epoch=epoch).tolist() == drawn[some].tolist()


def test_seeds_and_epochs_are_independent_of_each_other() -> None:
    orders = {(s, e): tuple(permute(50, seed=s, epoch=e)) for s in range(6) for e in range(6)}
    assert len(set(orders.values())) == 36
    views = {tuple(choose_views(np.arange(50), 4, seed=s, epoch=e)) for s, e in orders}
    assert len(views) == 36
    # What chooses views and captions says nothing of the order.
    order = np.argsort(permute(2000, seed=0, epoch=0))
    for other in (
        draw_numbers(np.arange(2000), seed=0, epoch=0),
        choose_views(np.arange(2000), 2000, seed=0, epoch=0),
    ):
        assert abs(np.corrcoef(order, other)[0, 1]) < 0.1


# --- The bytes -----------------------------------------------------------------------------------

keys = st.text("abcXYZ019_-", min_size=1, max_size=80)
bodies = st.one_of(
    st.binary(max_size=20), st.sampled_from([b"x" * n for n in (511, 512, 513, 5000)])
)


@lawful(60)
@given(samples=st.dictionaries(keys, st.lists(bodies, min_size=1, max_size=3), max_size=5))
def test_a_shard_is_what_pythons_tarfile_writes_of_the_same_members(
    samples: dict[str, list[bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tar")
    with open_shard(folder / "a.tar", 3) as writer:
        for key, members in samples.items():
            writer.add(key, [(f"e{n}", data) for n, data in enumerate(members)])
    with tarfile.open(folder / "b.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, members in samples.items():
            for number, data in enumerate(members):
                info = tarfile.TarInfo(f"{key}.e{number}")
                info.size, info.mode = len(data), 0o644
                tar.addfile(info, io.BytesIO(data))
    found = (folder / "a.tar").read_bytes()
    theirs = (folder / "b.tar").read_bytes()  # padded with zeros to 10 KiB
    assert theirs.startswith(found)
    assert not any(theirs[len(found) :])
    payload = len(found) - 1024
    assert (writer.bytes, tar_bytes(payload)) == (len(found), len(found))
    table = np.load(table_path(folder / "a.tar"))
    for members, row in zip(samples.values(), table.tolist(), strict=True):
        cut = [found[offset : offset + size] for offset, size in row[: len(members)]]
        assert cut == members
        assert row[len(members) :] == [[0, 0]] * (3 - len(members))


@pytest.mark.parametrize(("length", "named"), [(0, False), (1, True), (80, True), (81, False)])
def test_a_key_has_1_to_80_characters(length: int, named: bool) -> None:
    assert is_key("k" * length) is named
