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

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.dedupe.bands import Hashes, Positions, plan_longest
from pipeline.dedupe.crowds import find_leaders, link_crowd, measure_thickness, split_around
from pipeline.dedupe.linking import link, new_groups
from pipeline.dedupe.neighbours import Pairs, Places, find_neighbours

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


def find_clusters(
    hashes: Hashes, radius: int, *, scratch: Path, workers: int | None = 0
) -> Clusters:
    """Cluster `hashes`, in survivor order, by Hamming distance of at most `radius` bits.

    `scratch` names a file to work with (see `find_neighbours`). Equal hashes are taken together
    first, so a thousand equal ones cost what one does.
    """
    distinct, first, number = _take_equal_together(hashes)
    if radius == 0 or len(distinct) < 2:
        leader = group = new_groups(len(distinct))
    else:
        leader, group = _cluster_distinct(distinct, radius, scratch=scratch, workers=workers)
    leads, joins = first[leader], first[group]
    del distinct, leader, group  # the hashes may be tens of millions
    return Clusters(leader=leads[number], group=joins[number])


def _cluster_distinct(
    hashes: Hashes, radius: int, *, scratch: Path, workers: int | None
) -> tuple[Positions, Positions]:
    """Leaders and groups of hashes that all differ."""
    found = find_neighbours(hashes, radius, scratch=scratch, workers=workers)
    thick, thin = _part_crowds(hashes, found.crowded.astype(np.int64), radius)
    many = len(thin) > _FEW_HASHES
    plan = plan_longest(radius, choices=_CROWD_CHOICES) if many else None
    among = find_neighbours(
        hashes[thin], radius, scratch=scratch, workers=workers, plan=plan, crowd=len(thin)
    )
    pairs = np.concatenate([found.pairs, thin[among.pairs].astype(np.int32)])
    group = link(new_groups(len(hashes)), pairs[:, 0], pairs[:, 1])
    if not len(thick):
        return lead_by_pairs(pairs, len(hashes)), group
    return _cluster_crowded(hashes, radius, pairs=pairs, crowded=thick, group=group)


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


def _take_equal_together(hashes: Hashes) -> tuple[Hashes, Places, Places]:
    """Distinct hashes by first occurrence, where each occurs first, and each hash's number."""
    order = np.argsort(hashes, kind="stable").astype(np.int32)
    new = np.ones(len(hashes), dtype=np.bool_)
    new[1:] = hashes[order[1:]] != hashes[order[:-1]]
    is_first = np.zeros(len(hashes), dtype=np.bool_)
    is_first[order[new]] = True
    first = np.flatnonzero(is_first).astype(np.int32)
    by_value = (np.cumsum(is_first, dtype=np.int32) - 1)[order[new]]
    number = np.empty(len(hashes), dtype=np.int32)
    number[order] = by_value[np.cumsum(new, dtype=np.int32) - 1]
    return hashes[first], first, number
