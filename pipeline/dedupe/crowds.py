"""Crowds of near hashes: who leads whom and who is linked to whom, without listing pairs.

A hundred thousand images of nearly one hash have five thousand million near pairs. What is asked of
them needs no pairs: a **leader** for each hash (`find_leaders`) and the **linked groups**
(`link_crowd`). Both grow from representatives, each of which is compared with all the others at once,
and both are exact: they give what listing every pair would.
"""

from __future__ import annotations

from typing import NamedTuple

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

# A leader's turn costs a comparison with all that have none yet; it pays while it takes this share of
# them. What is spread more thinly is looked up in buckets.
_WORTH_A_TURN = 1 / 20_000
_TURNS_BETWEEN_LOOKS = 64
_LEAF_HASHES = 512
# Pairs that are compared at once: 8 bytes each, a few times over.
_BLOCK_PAIRS = 2_000_000
# As many leaders are compared with everything rather than looked up in buckets.
_FEW_LEADERS = 200
# Comparisons that are spent on joining the groups of leaders before their buckets are gone through.
_BALL_PAIRS = 300_000_000
# In buckets of no more hashes than this, all pairs of which any may still be apart are compared.
_STEPS = range(1, 65)
_SAMPLE = 64
# What differs in no more bits from its centre is a crowd's core.
_CORE_BITS = 12


class Thickness(NamedTuple):
    """About how many pairs are within the radius, and the hash that has most within its own."""

    near_pairs: float
    centre: np.uint64


def measure_thickness(hashes: Hashes, radius: int) -> Thickness:
    """Compare a few of the hashes with all of them."""
    sample = hashes[:: max(1, len(hashes) // _SAMPLE)]
    found = [int(near(hashes, one, radius).sum()) - 1 for one in sample]
    return Thickness(sum(found) / len(found) * len(hashes) / 2, sample[np.argmax(found)])


def split_around(hashes: Hashes, centre: np.uint64, radius: int) -> tuple[Positions, Positions]:
    """Cut hashes in what lies around `centre` and the rest, so that every near pair is within one.

    What lies between is in both: of two near hashes the distances from the centre differ by no more
    than `radius`.
    """
    distances = np.bitwise_count(hashes ^ centre)
    around = np.flatnonzero(distances <= _CORE_BITS + radius)
    return around, np.flatnonzero(distances > _CORE_BITS)


def find_leaders(hashes: Hashes, radius: int) -> Positions:
    """The leader of each hash, by position: the first leader within `radius`, itself if it leads.

    Defined one after another: a hash leads if no leader before it is within the radius. Done so while
    leaders take many each; what is left is cut in halves (`_lead_by_halves`).
    """
    leader = np.empty(len(hashes), dtype=np.int64)
    rest, left = np.arange(len(hashes)), hashes
    turns, before = 0, len(rest)
    while len(rest):
        close = near(left, left[0], radius)
        leader[rest[close]] = rest[0]
        rest, left = rest[~close], left[~close]
        turns += 1
        if turns % _TURNS_BETWEEN_LOOKS == 0:
            taken, before = before - len(rest), len(rest)
            if taken < _TURNS_BETWEEN_LOOKS * _WORTH_A_TURN * len(rest):
                leader[rest] = rest[_lead_by_halves(left, radius)]
                break
    return leader


def _lead_by_halves(hashes: Hashes, radius: int) -> Positions:
    """`find_leaders` of hashes of which few lead many.

    The leaders of the first half take from the second half what is near them, and the rest of the
    second half finds its leaders among itself. Leaders are more than `radius` apart, so they never
    crowd however thick the hashes are.
    """
    count = len(hashes)
    if count <= _LEAF_HASHES:
        return _lead_one_by_one(hashes, radius)
    half = count // 2
    leader = np.full(count, -1, dtype=np.int64)
    leader[:half] = _lead_by_halves(hashes[:half], radius)
    leaders = np.flatnonzero(leader[:half] == np.arange(half))
    nearest = _find_first_near(hashes[half:], hashes[leaders], radius)
    taken = nearest >= 0
    leader[half:][taken] = leaders[nearest[taken]]
    rest = half + np.flatnonzero(~taken)
    leader[rest] = rest[_lead_by_halves(hashes[rest], radius)]
    return leader


def link_crowd(hashes: Hashes, leader: Positions, group: Positions, radius: int) -> Positions:
    """Link all hashes within `radius`: the smallest position of each group.

    `leader` holds the leader of each hash, `group` the groups of what is linked already. First each
    leader that is not linked to one before it is linked with all that is near it, which joins nearly
    all of a thick crowd. Then, in each bucket, what is not in its largest group is compared with the
    whole bucket, so that nothing is missed.
    """
    group = link(group, np.arange(len(hashes)), leader)
    group = _link_balls(hashes, leader, group, radius)
    if not len(group) or (group == group[0]).all():
        return group
    plan = plan_bands(len(hashes), radius)
    for choice in plan.choices:
        buckets = _sort_choice(hashes, plan, choice)
        group = _link_buckets(group, hashes, buckets, radius)
    return group


def _link_balls(hashes: Hashes, leader: Positions, group: Positions, radius: int) -> Positions:
    leaders, followers = np.unique(leader, return_counts=True)
    rename, seen = new_groups(len(hashes)), np.zeros(len(hashes), dtype=np.bool_)
    budget = _BALL_PAIRS
    for one in leaders[np.argsort(-followers, kind="stable")]:
        if budget < len(hashes):
            break
        if seen[group[one]]:
            continue
        budget -= len(hashes)
        heads = np.unique(group[near(hashes, hashes[one], radius)])
        if len(heads) > 1:
            rename[heads] = heads[0]
            group = rename[group]
            rename[heads] = heads
        seen[heads[0]] = True
    return group


def _link_buckets(
    group: Positions, hashes: Hashes, buckets: tuple[Hashes, Positions], radius: int
) -> Positions:
    """Link what lies in one bucket and in different groups: in large buckets all at once."""
    keys, order = buckets
    edges = bucket_edges(keys)
    sizes = np.diff(edges)
    in_order = group[order]
    differ = np.minimum.reduceat(in_order, edges[:-1]) != np.maximum.reduceat(in_order, edges[:-1])
    small = differ & (sizes <= _STEPS.stop)
    at = np.flatnonzero(np.repeat(small, sizes))
    group = _link_steps(group, hashes, buckets, at=at, radius=radius)
    for large in np.flatnonzero(differ & ~small):
        group = _link_bucket(group, hashes, order[edges[large] : edges[large + 1]], radius)
    return group


def _link_steps(
    group: Positions,
    hashes: Hashes,
    buckets: tuple[Hashes, Positions],
    *,
    at: Positions,
    radius: int,
) -> Positions:
    """Link each of the sorted places `at` with those after it in its bucket."""
    keys, order = buckets
    in_order, sorted_hashes = group[order], hashes[order]
    links = [(order[:0], order[:0])]
    for step in _STEPS:
        at = at[at + step < len(keys)]
        at = at[keys[at + step] == keys[at]]
        if not len(at):
            break
        apart = at[in_order[at + step] != in_order[at]]
        close = apart[near(sorted_hashes[apart], sorted_hashes[apart + step], radius)]
        links.append((order[close], order[close + step]))
    firsts, seconds = zip(*links, strict=True)
    return link(group, np.concatenate(firsts), np.concatenate(seconds))


def _link_bucket(group: Positions, hashes: Hashes, members: Positions, radius: int) -> Positions:
    groups, sizes = np.unique(group[members], return_counts=True)
    if len(groups) == 1:
        return group
    apart = members[group[members] != groups[np.argmax(sizes)]]
    for block in _blocks(apart, len(members)):
        close = near(hashes[block][:, None], hashes[members][None, :], radius)
        close &= group[block][:, None] != group[members][None, :]
        first, second = np.nonzero(close)
        if len(first):
            group = link(group, block[first], members[second])
    return group


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
