"""Clusters and groups are exactly those found by comparing every pair."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dedupe import clusters, crowds, neighbours
from pipeline.dedupe import column_file as numberfile
from pipeline.dedupe.bands import _plans, plan_bands, sort_into_buckets
from pipeline.dedupe.clusters import Clusters, find_clusters
from pipeline.dedupe.column_file import write_column
from pipeline.dedupe.crowds import find_leaders, link_crowd

Hashes = npt.NDArray[np.uint64]


def random_hashes(count: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def flip(hashes: Hashes, bits: int, seed: int) -> Hashes:
    """Each hash with up to `bits` bits flipped."""
    rng = np.random.default_rng(seed)
    flipped = hashes.copy()
    for _ in range(bits):
        flipped ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    return flipped


def blob(count: int, bits: int, seed: int = 0) -> Hashes:
    """Hashes around one."""
    return flip(np.full(count, 0x0123456789ABCDEF, dtype=np.uint64), bits, seed)


def compare_all(hashes: Hashes, radius: int) -> Clusters:
    """The definition, pair by pair."""
    count = len(hashes)
    close = np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= radius
    leader = np.full(count, -1, dtype=np.int32)
    for one in range(count):
        leads = np.flatnonzero(close[one, :one] & (leader[:one] == np.arange(one)))
        leader[one] = leads[0] if len(leads) else one
    group = np.arange(count, dtype=np.int32)
    while True:
        smallest = np.where(close, group, count).min(axis=1, initial=count).astype(np.int32)
        if (smallest == group).all():
            return Clusters(leader=leader, group=group)
        group = smallest


def cluster(hashes: Hashes, radius: int, folder: Path, workers: int = 0) -> Clusters:
    """`find_clusters` of hashes in memory; no file is left beside theirs."""
    file = write_column(folder / "hashes", [hashes])
    found = find_clusters(file, radius, workers=workers)
    assert list(folder.iterdir()) == [file.path]
    return found


def same(found: Clusters, expected: Clusters) -> None:
    np.testing.assert_array_equal(found.leader, expected.leader)
    np.testing.assert_array_equal(found.group, expected.group)


CASES = {
    "spread": random_hashes(400),
    "equal": np.repeat(random_hashes(20), 30),
    "pairs": np.concatenate([random_hashes(300), flip(random_hashes(300), 4, 1)]),
    "tight crowd": blob(400, 2),
    "loose crowd": blob(500, 9),
    "chains": np.concatenate(
        [flip(random_hashes(12, 5).repeat(30), bits, bits) for bits in (3, 6)]
    ),
    "crowd among others": np.concatenate([random_hashes(300), blob(400, 4), blob(60, 12, 3)]),
    "few": random_hashes(1),
    "none": random_hashes(0),
}


@functools.cache
def shuffled(name: str, radius: int) -> tuple[Hashes, Clusters]:
    """The hashes of a case in another order, and their clusters by definition."""
    hashes = np.random.default_rng(9).permutation(CASES[name])
    return hashes, compare_all(hashes, radius)


@pytest.mark.parametrize("radius", [0, 1, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_clusters_are_those_of_comparing_all_pairs(name: str, radius: int, tmp_path: Path) -> None:
    hashes, expected = shuffled(name, radius)
    same(cluster(hashes, radius, tmp_path), expected)


@pytest.mark.parametrize("few_pairs", [-1, 5, 10**9])
@pytest.mark.parametrize("radius", [1, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_crowds_are_exact_listed_or_not(
    name: str, radius: int, few_pairs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "FEW_PAIRS", few_pairs)
    monkeypatch.setattr(clusters, "FEW_PAIRS_EACH", few_pairs)
    monkeypatch.setattr(clusters, "MOST_CROWDS", 3)
    monkeypatch.setattr(neighbours, "CROWD", 2)
    monkeypatch.setattr(neighbours, "even_bucket", lambda plan, count: 1.0)
    hashes, expected = shuffled(name, radius)
    same(cluster(hashes, radius, tmp_path), expected)


@pytest.mark.parametrize("balls", [0, 10**9])
@pytest.mark.parametrize("name", CASES)
def test_crowds_are_exact_however_small_the_blocks(
    name: str, balls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crowds, "WORTH_A_TURN", 1.0)
    monkeypatch.setattr(crowds, "TURNS_BETWEEN_LOOKS", 1)
    monkeypatch.setattr(crowds, "LEAF_HASHES", 8)
    monkeypatch.setattr(crowds, "FEW_LEADERS", 3)
    monkeypatch.setattr(crowds, "BLOCK_PAIRS", 50)
    monkeypatch.setattr(crowds, "BALL_PAIRS", balls)
    monkeypatch.setattr(crowds, "STEPS", range(1, 3))
    # Still many blocks, but fewer of the pairs that take the time.
    hashes = np.unique(np.random.default_rng(9).permutation(CASES[name])[:200])
    leader = find_leaders(hashes, 4)
    group = link_crowd(hashes, leader, np.arange(len(hashes)), 4)
    found = Clusters(leader=leader.astype(np.int32), group=group.astype(np.int32))
    same(found, compare_all(hashes, 4))


def test_slices_and_processes_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = random_hashes(3000)
    equal = np.full(3000, others[7])
    hashes = np.concatenate([others, flip(others, 4, 1), blob(3000, 5), equal, others[:500]])
    whole = cluster(hashes, 4, tmp_path)
    monkeypatch.setattr(neighbours, "SLICE", 700)
    monkeypatch.setattr(numberfile, "SLICE", 400)
    monkeypatch.setattr(numberfile, "BLOCK", 1000)
    monkeypatch.setattr(clusters, "BLOCK", 1000)
    same(cluster(hashes, 4, tmp_path), whole)
    monkeypatch.setattr(neighbours, "WORTH_PROCESSES_NS", 0.0)
    same(cluster(hashes, 4, tmp_path, workers=2), whole)


def test_planted_pairs_are_found_among_many(tmp_path: Path) -> None:
    many = random_hashes(100_000, 3)
    planted = flip(many[:2000], 4, 4)
    found = cluster(np.concatenate([many, planted]), 4, tmp_path)
    np.testing.assert_array_equal(found.group[100_000:], found.group[:2000])


def test_every_hash_is_within_the_radius_of_its_leader(tmp_path: Path) -> None:
    hashes = blob(5000, 10)
    leader = cluster(hashes, 4, tmp_path).leader
    assert np.bitwise_count(hashes ^ hashes[leader]).max() <= 4
    assert (leader[leader] == leader).all()
    assert (leader <= np.arange(5000)).all()


def test_new_hashes_join_groups_and_never_split_them(tmp_path: Path) -> None:
    hashes = np.concatenate([blob(300, 10), random_hashes(300)])
    before = cluster(hashes[:400], 4, tmp_path).group
    after = cluster(hashes, 4, tmp_path).group[:400]
    for group in np.unique(before):
        assert len(np.unique(after[before == group])) == 1


@pytest.mark.parametrize("radius", range(1, 9))
@pytest.mark.parametrize("count", [10, 100_000, 1_100_000, 11_000_000])
def test_a_plan_covers_all_bits(count: int, radius: int) -> None:
    plan = plan_bands(count, radius)
    assert sum(length for _, length in plan._places()) == 64
    assert sum(bands - plan.agreeing + 1 for bands in plan._bands_by_group()) == radius + 1


@pytest.mark.parametrize("radius", range(1, 9))
def test_whatever_is_near_agrees_on_a_choice_of_every_plan(radius: int) -> None:
    differences = flip(np.zeros(2000, dtype=np.uint64), radius, 2)
    for plan in _plans(radius):
        if len(plan.choices) <= 70:
            keys = np.array([plan.key(differences, choice) for choice in plan.choices])
            agrees = keys == 0
            assert agrees.any(axis=0).all()
            for number in range(len(plan.choices)):
                first = plan.is_first(differences, number)
                np.testing.assert_array_equal(first, agrees.argmax(axis=0) == number)


@pytest.mark.parametrize("bits", [13, 16, 20, 32])
def test_buckets_are_sorted_by_key_and_then_by_position(bits: int) -> None:
    keys = random_hashes(2000) >> np.uint64(64 - bits) & np.uint64(0xFFFF_F0F3)
    found, order = sort_into_buckets(keys, bits)
    expected = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(order, expected)
    np.testing.assert_array_equal(found, keys[expected])
