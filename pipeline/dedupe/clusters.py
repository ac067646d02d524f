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

from pipeline.dedupe.bands import Hashes, Positions
from pipeline.dedupe.crowds import find_leaders, link_crowd
from pipeline.dedupe.linking import link, new_groups
from pipeline.dedupe.neighbours import Pairs, find_neighbours


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """For each hash, by position: its leader (itself if it leads) and the first of its group."""

    leader: Positions
    group: Positions


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
    return Clusters(leader=first[leader][number], group=first[group][number])


def _cluster_distinct(
    hashes: Hashes, radius: int, *, scratch: Path, workers: int | None
) -> tuple[Positions, Positions]:
    found = find_neighbours(hashes, radius, scratch=scratch, workers=workers)
    group = link(new_groups(len(hashes)), found.pairs[:, 0], found.pairs[:, 1])
    crowded = found.crowded.astype(np.int64)
    if len(crowded):
        among = crowded[link_crowd(hashes[crowded], radius)]
        group = link(group, crowded, among)
    is_crowd = np.zeros(len(hashes), dtype=np.bool_)
    is_crowd[group[crowded]] = True
    in_crowd = is_crowd[group]
    leader = lead_by_pairs(found.pairs[~in_crowd[found.pairs[:, 0]]], len(hashes))
    thick = np.flatnonzero(in_crowd)
    leader[thick] = thick[find_leaders(hashes[thick], radius)]
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


def _take_equal_together(hashes: Hashes) -> tuple[Hashes, Positions, Positions]:
    """Distinct hashes by first occurrence, where each occurs first, and each hash's number."""
    order = np.argsort(hashes, kind="stable")
    new = np.ones(len(hashes), dtype=np.bool_)
    new[1:] = hashes[order[1:]] != hashes[order[:-1]]
    first_by_value = order[new]
    by_first = np.argsort(first_by_value)
    renumber = np.empty(len(by_first), dtype=np.int64)
    renumber[by_first] = np.arange(len(by_first))
    number = np.empty(len(hashes), dtype=np.int64)
    number[order] = renumber[np.cumsum(new) - 1]
    first = first_by_value[by_first]
    return hashes[first], first, number
