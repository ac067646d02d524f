"""Crowds of near hashes: who leads whom and who is linked to whom, without listing pairs.

A hundred thousand images of nearly one hash have five thousand million near pairs. What is asked of
them needs no pairs: a **leader** for each hash (`find_leaders`) and the **linked groups**
(`link_crowd`). Both are exact: they give what listing every pair would.
"""

from __future__ import annotations

import numpy as np

from pipeline.dedupe.bands import (
    Hashes,
    Plan,
    Positions,
    bucket_edges,
    near,
    plan_bands,
    sort_into_buckets,
)
from pipeline.dedupe.linking import link, new_groups

_LEAF_HASHES = 512
# Pairs that are compared at once: 8 bytes each, a few times over.
_BLOCK_PAIRS = 2_000_000
# As many leaders are compared with everything rather than looked up in buckets.
_FEW_LEADERS = 200
# How far apart in a bucket hashes are compared at first; and then, where some are not linked yet.
_FIRST_STEPS, _MORE_STEPS = range(1, 9), range(9, 65)
# Crowds are thick: longer keys than for evenly spread hashes.
_CROWD_AGREEING = 4


def find_leaders(hashes: Hashes, radius: int) -> Positions:
    """The leader of each hash, by position: the first leader within `radius`, itself if it leads.

    Defined one after another: a hash leads if no leader before it is within the radius. Found by
    halves: the leaders of the first half take from the second half what is near them, and the rest
    of the second half finds its leaders among itself. Leaders are more than `radius` apart, so they
    never crowd however thick the hashes are.
    """
    count = len(hashes)
    if count <= _LEAF_HASHES:
        return _lead_one_by_one(hashes, radius)
    half = count // 2
    leader = np.full(count, -1, dtype=np.int64)
    leader[:half] = find_leaders(hashes[:half], radius)
    leaders = np.flatnonzero(leader[:half] == np.arange(half))
    nearest = _find_first_near(hashes[half:], hashes[leaders], radius)
    taken = nearest >= 0
    leader[half:][taken] = leaders[nearest[taken]]
    rest = half + np.flatnonzero(~taken)
    leader[rest] = rest[find_leaders(hashes[rest], radius)]
    return leader


def link_crowd(hashes: Hashes, radius: int) -> Positions:
    """Groups of hashes linked through pairs within `radius`: the smallest position of each group.

    First neighbours in sorted buckets are linked, which joins nearly all of a thick crowd; then, in
    each bucket, what is not in its largest group is compared with the whole bucket.
    """
    plan = Plan(radius, radius + _CROWD_AGREEING, _CROWD_AGREEING)
    parent = new_groups(len(hashes))
    everyone = np.arange(len(hashes))
    for choice in plan.choices:
        bucket = _sort_choice(hashes, plan, choice)
        parent = _link_steps(parent, hashes, bucket, at=everyone, steps=_FIRST_STEPS, radius=radius)
        if not parent.any():
            return parent
    for choice in plan.choices:
        parent = _link_rest(parent, hashes, _sort_choice(hashes, plan, choice), radius)
    return parent


def _link_rest(
    parent: Positions, hashes: Hashes, buckets: tuple[Hashes, Positions], radius: int
) -> Positions:
    """Link what the first steps left apart: by further steps, in large buckets all at once."""
    keys, order = buckets
    edges = bucket_edges(keys)
    sizes = np.diff(edges)
    group = parent[order]
    differ = np.minimum.reduceat(group, edges[:-1]) != np.maximum.reduceat(group, edges[:-1])
    small = differ & (sizes > _FIRST_STEPS.stop) & (sizes <= _MORE_STEPS.stop)
    at = np.flatnonzero(np.repeat(small, sizes))
    parent = _link_steps(parent, hashes, buckets, at=at, steps=_MORE_STEPS, radius=radius)
    for large in np.flatnonzero(differ & (sizes > _MORE_STEPS.stop)):
        parent = _link_bucket(parent, hashes, order[edges[large] : edges[large + 1]], radius)
    return parent


def _link_steps(
    parent: Positions,
    hashes: Hashes,
    buckets: tuple[Hashes, Positions],
    *,
    at: Positions,
    steps: range,
    radius: int,
) -> Positions:
    """Link each of the sorted places `at` with those `steps` further on in its bucket."""
    keys, order = buckets
    group, sorted_hashes = parent[order], hashes[order]
    links = [(order[:0], order[:0])]
    for step in steps:
        at = at[at + step < len(keys)]
        at = at[keys[at + step] == keys[at]]
        if not len(at):
            break
        open_ = at[group[at + step] != group[at]]
        close = open_[near(sorted_hashes[open_], sorted_hashes[open_ + step], radius)]
        links.append((order[close], order[close + step]))
    firsts, seconds = zip(*links, strict=True)
    return link(parent, np.concatenate(firsts), np.concatenate(seconds))


def _link_bucket(parent: Positions, hashes: Hashes, members: Positions, radius: int) -> Positions:
    group = parent[members]
    groups, sizes = np.unique(group, return_counts=True)
    if len(groups) == 1:
        return parent
    apart = members[group != groups[np.argmax(sizes)]]
    for block in _blocks(apart, len(members)):
        close = near(hashes[block][:, None], hashes[members][None, :], radius)
        close &= parent[block][:, None] != parent[members][None, :]
        first, second = np.nonzero(close)
        if len(first):
            parent = link(parent, block[first], members[second])
    return parent


def _sort_choice(hashes: Hashes, plan: Plan, choice: tuple[int, ...]) -> tuple[Hashes, Positions]:
    return sort_into_buckets(plan.key(hashes, choice), plan.widest(choice))


def _lead_one_by_one(hashes: Hashes, radius: int) -> Positions:
    leader = np.full(len(hashes), -1, dtype=np.int64)
    for position in range(len(hashes)):
        if leader[position] < 0:
            close = near(hashes[position:], hashes[position], radius)
            following = leader[position:]
            following[close & (following < 0)] = position
    return leader


def _find_first_near(hashes: Hashes, leaders: Hashes, radius: int) -> Positions:
    """The number of the first of `leaders` within `radius` of each hash, −1 for none."""
    if len(leaders) <= _FEW_LEADERS:
        return _compare_with_all(hashes, leaders, radius)
    plan = plan_bands(len(leaders) + len(hashes), radius)
    none = len(leaders)
    first = np.full(len(hashes), none, dtype=np.int64)
    for choice in plan.choices:
        keys, order = _sort_choice(leaders, plan, choice)
        wanted = plan.key(hashes, choice)
        begin = np.searchsorted(keys, wanted, side="left")
        counts = np.searchsorted(keys, wanted, side="right") - begin
        for asking in _cut_by_sum(np.flatnonzero(counts), counts):
            who = np.repeat(asking, counts[asking])
            ends = np.cumsum(counts[asking])
            within = np.arange(ends[-1]) - np.repeat(ends - counts[asking], counts[asking])
            whom = order[begin[who] + within]
            close = near(hashes[who], leaders[whom], radius)
            np.minimum.at(first, who[close], whom[close])
    first[first == none] = -1
    return first


def _compare_with_all(hashes: Hashes, leaders: Hashes, radius: int) -> Positions:
    first = np.full(len(hashes), -1, dtype=np.int64)
    for number, leader in enumerate(leaders):
        open_ = np.flatnonzero(first < 0)
        first[open_[near(hashes[open_], leader, radius)]] = number
    return first


def _blocks(positions: Positions, others: int) -> list[Positions]:
    size = max(1, _BLOCK_PAIRS // max(1, others))
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _cut_by_sum(positions: Positions, counts: Positions) -> list[Positions]:
    """Cut `positions` so that the counts of a piece add up to about one block."""
    if not len(positions):
        return []
    block = np.cumsum(counts[positions]) // _BLOCK_PAIRS
    return np.split(positions, np.flatnonzero(np.diff(block)) + 1)
