"""Near duplicates: clusters around leaders, and the groups that must share a split.

Given hashes in survivor order:

- A **cluster** is a leader and its followers. In survivor order, a hash leads if no earlier leader is within
  the radius; otherwise it follows the first such leader. So every row is within the radius of the row that
  represents it, and the best row of a neighbourhood represents the rest.
- A **group** is a connected component of the pairs within the radius. Every cluster is inside one group.
  Adding rows can only join groups, never split them, so splits are assigned by group.

Both are exact and depend only on the hashes and their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline.dedupe.bands import Hashes, Positions, plan_longest
from pipeline.dedupe.column_file import (
    BLOCK,
    POSITION,
    ColumnFile,
    Positions32,
    find_first_equal,
    write_column,
)
from pipeline.dedupe.crowds import find_leaders, link_crowd, measure_density, split_around
from pipeline.dedupe.linking import link, new_groups
from pipeline.dedupe.neighbours import Neighbours, Pairs, find_neighbours

# Near pairs within crowds are listed if there are no more than these: per hash, and in total (8 bytes each).
FEW_PAIRS_EACH, FEW_PAIRS = 16.0, 8_000_000
# So many crowds are searched for one by one; the remainder is treated as one crowd.
MOST_CROWDS = 32
# More choices than for evenly distributed hashes: the longer the keys, the smaller the crowds.
_CROWD_CHOICES = 100
# With so few hashes a whole bucket may be compared, however full it is.
_FEW_HASHES = 20_000


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """For each hash, by position: its leader (itself if it leads) and the first of its group."""

    leader: Positions32
    group: Positions32


class _NearHashes(NamedTuple):
    """Hashes with a near neighbour: their sorted positions, and the leader and group of each, as indices."""

    positions: Positions32
    leader: Positions
    group: Positions


def find_clusters(hashes: ColumnFile, radius: int, *, workers: int | None = 0) -> Clusters:
    """Cluster `hashes`, in survivor order, by Hamming distance of at most `radius` bits.

    Work files are created beside the file of hashes and removed at the end. Equal hashes are merged first, so
    a thousand equal hashes cost as much as one. Memory holds the result, one slice in each worker, and the
    hashes that have neighbours with their near pairs; a hash without neighbours takes none.
    """
    leader = find_first_equal(hashes)
    distinct = hashes.path.with_name("distinct.partial")
    numbers = hashes.path.with_name("numbers.partial")
    try:
        alike = _cluster_distinct(
            *_write_distinct(hashes, leader, distinct, numbers), radius, workers
        )
    finally:
        distinct.unlink(missing_ok=True)
        numbers.unlink(missing_ok=True)
    group = leader.copy()
    for column, heads in ((leader, alike.leader), (group, alike.group)):
        column[alike.positions] = alike.positions[heads]
        for start in range(0, len(column), BLOCK):  # a hash equal to another follows it
            column[start : start + BLOCK] = column[column[start : start + BLOCK]]
    return Clusters(leader=leader, group=group)


def _write_distinct(
    hashes: ColumnFile, first: Positions32, distinct: Path, numbers: Path
) -> tuple[ColumnFile, ColumnFile]:
    """The first of each set of equal hashes, and their positions."""

    def read() -> Iterator[tuple[Hashes, Positions32]]:
        for start, block in hashes.blocks():
            here = np.arange(start, start + len(block), dtype=POSITION)
            is_first = first[start : start + len(block)] == here
            yield block[is_first], here[is_first]

    left = write_column(distinct, (block for block, _ in read()))
    return left, write_column(numbers, (here for _, here in read()), POSITION)


def _cluster_distinct(
    hashes: ColumnFile, positions: ColumnFile, radius: int, workers: int | None
) -> _NearHashes:
    """Clusters and groups of hashes that are all different."""
    if radius == 0:
        return _NearHashes(np.empty(0, POSITION), new_groups(0), new_groups(0))
    found = find_neighbours(hashes, radius, workers=workers)
    touched = np.zeros(hashes.count, dtype=np.bool_)
    touched[found.pairs] = touched[found.crowded] = True
    numbers = np.flatnonzero(touched).astype(POSITION)
    del touched
    own = Neighbours(
        pairs=np.searchsorted(numbers, found.pairs).astype(POSITION),
        crowded=np.searchsorted(numbers, found.crowded).astype(POSITION),
    )
    del found
    scratch = positions.path.with_name("crowds.partial")
    leader, group = _cluster_near(hashes.take(numbers), radius, own, scratch, workers)
    return _NearHashes(positions.take(numbers), leader, group)


def _cluster_near(
    hashes: Hashes, radius: int, found: Neighbours, scratch: Path, workers: int | None
) -> tuple[Positions, Positions]:
    """Leaders and groups of hashes; `found` lists the pairs outside crowds."""
    dense, sparse = _split_crowds(hashes, found.crowded.astype(np.int64), radius)
    pairs = found.pairs
    if len(sparse):
        among = _list_pairs(hashes[sparse], radius, scratch, workers)
        pairs = np.concatenate([pairs, sparse.astype(POSITION)[among]])
    group = link(new_groups(len(hashes)), pairs[:, 0], pairs[:, 1])
    if not len(dense):
        return lead_by_pairs(pairs, len(hashes)), group
    return _cluster_crowded(hashes, radius, pairs=pairs, crowded=dense, group=group)


def _list_pairs(hashes: Hashes, radius: int, scratch: Path, workers: int | None) -> Pairs:
    """Every near pair of hashes in sparse crowds."""
    many = len(hashes) > _FEW_HASHES
    plan = plan_longest(radius, choices=_CROWD_CHOICES) if many else None
    try:
        file = write_column(scratch, [hashes])
        return find_neighbours(file, radius, workers=workers, plan=plan, crowd=len(hashes)).pairs
    finally:
        scratch.unlink(missing_ok=True)


def _split_crowds(hashes: Hashes, crowded: Positions, radius: int) -> tuple[Positions, Positions]:
    """Split positions into those in dense crowds and those whose few near pairs can be listed.

    Hashes may share bits with a crowd without being near it: their distance from its centre tells them
    apart. Every near pair among `crowded` is within one of the two parts.
    """
    dense, rest = [crowded[:0]], crowded
    for _ in range(MOST_CROWDS):
        if not len(rest):
            break
        near_pairs, centre = measure_density(hashes[rest], radius)
        if near_pairs <= min(FEW_PAIRS, FEW_PAIRS_EACH * len(rest)):
            return np.unique(np.concatenate(dense)), rest
        around, away = split_around(hashes[rest], centre, radius)
        dense.append(rest[around])
        rest = rest[away]
    return np.unique(np.concatenate([*dense, rest])), rest[:0]


def _cluster_crowded(
    hashes: Hashes, radius: int, *, pairs: Pairs, crowded: Positions, group: Positions
) -> tuple[Positions, Positions]:
    """`pairs` holds every near pair except those between two `crowded` hashes."""
    has_crowd = np.zeros(len(hashes), dtype=np.bool_)
    has_crowd[group[crowded]] = True
    is_dense = has_crowd[group]
    leader = lead_by_pairs(pairs[~is_dense[pairs[:, 0]]], len(hashes))
    dense = np.flatnonzero(is_dense)
    leads = find_leaders(hashes[dense], radius)
    leader[dense] = dense[leads]
    heads, own = np.unique(group[dense], return_inverse=True)
    first = np.searchsorted(dense, heads)  # the smallest position of a group names it
    linked = link_crowd(hashes[dense], leads, first[own], radius)
    group[dense] = dense[linked]
    return leader, group


def lead_by_pairs(pairs: Pairs, count: int) -> Positions:
    """The leaders of `count` hashes, given all near pairs, each with the earlier hash first.

    In each round, a hash with no open pair to an earlier hash leads; its followers drop out.
    """
    follows = np.zeros(count, dtype=np.bool_)
    early, late = pairs[:, 0], pairs[:, 1]
    while len(early):
        waits = np.zeros(count, dtype=np.bool_)
        waits[late] = True
        follows[late[~waits[early]]] = True
        still = ~follows[early] & ~follows[late]
        early, late = early[still], late[still]
    early, late = pairs[:, 0], pairs[:, 1]
    leads = ~follows[early] & follows[late]
    leader = new_groups(count)
    leader[follows] = count
    np.minimum.at(leader, late[leads], early[leads].astype(np.int64))
    return leader
