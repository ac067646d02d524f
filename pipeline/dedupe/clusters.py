"""Near duplicates: clusters around leaders, and the groups that must share a split.

Given hashes in survivor order:

- A **cluster** is a leader and what follows it. Going through the order, a hash leads if no leader
  before it is within the radius; else it follows the first such leader. So every row is within the
  radius of the row that stands for it, and the best row of a neighbourhood stands for the rest.
- A **group** is what is linked through pairs within the radius, over any number of steps. Clusters lie
  within groups. Adding rows can only join groups, never part them: splits rest on groups.

Both are exact and depend on the hashes and their order alone.
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
    NumberFile,
    Places,
    find_first_equal,
    write_numbers,
)
from pipeline.dedupe.crowds import find_leaders, link_crowd, measure_thickness, split_around
from pipeline.dedupe.linking import link, new_groups
from pipeline.dedupe.neighbours import Found, Pairs, find_neighbours

# Near pairs within crowds that are listed after all (8 bytes each): so many for a hash, and in all.
_FEW_PAIRS_EACH, _FEW_PAIRS = 16.0, 8_000_000
# So many are looked for one by one; what is left is taken for one crowd.
_MOST_CROWDS = 32
# More choices than for hashes that are spread evenly: the longer the keys, the thinner a crowd.
_CROWD_CHOICES = 100
# Of so few hashes all of a bucket may be compared, however full it is.
_FEW_HASHES = 20_000


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """For each hash, by position: its leader (itself if it leads) and the first of its group."""

    leader: Places
    group: Places


class _Alike(NamedTuple):
    """Hashes that are not alone: their positions, sorted, and by number their leaders and groups."""

    positions: Places
    leader: Positions
    group: Positions


def find_clusters(hashes: NumberFile, radius: int, *, workers: int | None = 0) -> Clusters:
    """Cluster `hashes`, in survivor order, by Hamming distance of at most `radius` bits.

    Files to work with are made beside that of the hashes, and removed. Equal hashes are taken
    together first, so a thousand equal ones cost what one does. In memory there are the result, a
    slice in each worker, and what is alike with its near pairs: nothing for a hash that is alone.
    """
    leader = find_first_equal(hashes)
    distinct = hashes.path.with_name("distinct.partial")
    numbers = hashes.path.with_name("numbers.partial")
    try:
        alike = _find_alike(*_tell_distinct(hashes, leader, distinct, numbers), radius, workers)
    finally:
        distinct.unlink(missing_ok=True)
        numbers.unlink(missing_ok=True)
    group = leader.copy()
    for column, heads in ((leader, alike.leader), (group, alike.group)):
        column[alike.positions] = alike.positions[heads]
        for start in range(0, len(column), BLOCK):  # what equals another follows it
            column[start : start + BLOCK] = column[column[start : start + BLOCK]]
    return Clusters(leader=leader, group=group)


def _tell_distinct(
    hashes: NumberFile, first: Places, distinct: Path, numbers: Path
) -> tuple[NumberFile, NumberFile]:
    """The hashes that are the first of their kind, and their positions."""

    def read() -> Iterator[tuple[Hashes, Places]]:
        for start, block in hashes.blocks():
            here = np.arange(start, start + len(block), dtype=POSITION)
            is_first = first[start : start + len(block)] == here
            yield block[is_first], here[is_first]

    left = write_numbers(distinct, (block for block, _ in read()))
    return left, write_numbers(numbers, (here for _, here in read()), POSITION)


def _find_alike(
    hashes: NumberFile, positions: NumberFile, radius: int, workers: int | None
) -> _Alike:
    """Clusters and groups of hashes that all differ."""
    if radius == 0:
        return _Alike(np.empty(0, POSITION), new_groups(0), new_groups(0))
    found = find_neighbours(hashes, radius, workers=workers)
    touched = np.zeros(hashes.count, dtype=np.bool_)
    touched[found.pairs] = touched[found.crowded] = True
    numbers = np.flatnonzero(touched).astype(POSITION)
    del touched
    own = Found(
        pairs=np.searchsorted(numbers, found.pairs).astype(POSITION),
        crowded=np.searchsorted(numbers, found.crowded).astype(POSITION),
    )
    del found
    scratch = positions.path.with_name("crowds.partial")
    leader, group = _cluster_alike(hashes.take(numbers), radius, own, scratch, workers)
    return _Alike(positions.take(numbers), leader, group)


def _cluster_alike(
    hashes: Hashes, radius: int, found: Found, scratch: Path, workers: int | None
) -> tuple[Positions, Positions]:
    """Leaders and groups of hashes of which `found` names the pairs outside of crowds."""
    thick, thin = _part_crowds(hashes, found.crowded.astype(np.int64), radius)
    pairs = found.pairs
    if len(thin):
        among = _list_pairs(hashes[thin], radius, scratch, workers)
        pairs = np.concatenate([pairs, thin.astype(POSITION)[among]])
    group = link(new_groups(len(hashes)), pairs[:, 0], pairs[:, 1])
    if not len(thick):
        return lead_by_pairs(pairs, len(hashes)), group
    return _cluster_crowded(hashes, radius, pairs=pairs, crowded=thick, group=group)


def _list_pairs(hashes: Hashes, radius: int, scratch: Path, workers: int | None) -> Pairs:
    """Every near pair of hashes that crowd thinly."""
    many = len(hashes) > _FEW_HASHES
    plan = plan_longest(radius, choices=_CROWD_CHOICES) if many else None
    try:
        file = write_numbers(scratch, [hashes])
        return find_neighbours(file, radius, workers=workers, plan=plan, crowd=len(hashes)).pairs
    finally:
        scratch.unlink(missing_ok=True)


def _part_crowds(hashes: Hashes, crowded: Positions, radius: int) -> tuple[Positions, Positions]:
    """The positions that are in thick crowds, and those whose few near pairs can be listed.

    Hashes may share bits with a crowd without being alike: those are told from it by their distance
    from its centre. Every near pair of two that are `crowded` is within one of the two parts.
    """
    thick, rest = [crowded[:0]], crowded
    for _ in range(_MOST_CROWDS):
        if not len(rest):
            break
        near_pairs, centre = measure_thickness(hashes[rest], radius)
        if near_pairs <= min(_FEW_PAIRS, _FEW_PAIRS_EACH * len(rest)):
            return np.unique(np.concatenate(thick)), rest
        around, away = split_around(hashes[rest], centre, radius)
        thick.append(rest[around])
        rest = rest[away]
    return np.unique(np.concatenate([*thick, rest])), rest[:0]


def _cluster_crowded(
    hashes: Hashes, radius: int, *, pairs: Pairs, crowded: Positions, group: Positions
) -> tuple[Positions, Positions]:
    """`pairs` holds every near pair but those of two that are `crowded`."""
    has_crowd = np.zeros(len(hashes), dtype=np.bool_)
    has_crowd[group[crowded]] = True
    is_thick = has_crowd[group]
    leader = lead_by_pairs(pairs[~is_thick[pairs[:, 0]]], len(hashes))
    thick = np.flatnonzero(is_thick)
    leads = find_leaders(hashes[thick], radius)
    leader[thick] = thick[leads]
    heads, own = np.unique(group[thick], return_inverse=True)
    first = np.searchsorted(thick, heads)  # the smallest position of a group names it
    linked = link_crowd(hashes[thick], leads, first[own], radius)
    group[thick] = thick[linked]
    return leader, group


def lead_by_pairs(pairs: Pairs, count: int) -> Positions:
    """The leaders of `count` hashes of which all near pairs are listed, the earlier one first.

    In each round, whoever has no open pair with an earlier hash leads; its followers drop out.
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
