"""Leaders and groups of crowds of near hashes, without listing pairs.

A hundred thousand images with nearly the same hash have five billion near pairs. What is needed can be found
without listing them: a **leader** for each hash (`find_leaders`) and the **linked groups** (`link_crowd`).
Both start from representatives, each compared with all other hashes at once. Both are exact: the results are
the same as from a list of every pair.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pipeline.dedupe.bands import (
    BandPlan,
    Hashes,
    Positions,
    bucket_edges,
    near,
    plan_bands,
    sort_into_buckets,
)
from pipeline.dedupe.linking import link, new_groups

# Processing one leader compares it with all hashes that have none yet; this pays while it takes at least this
# share of them. More thinly spread hashes are looked up in buckets.
WORTH_A_TURN = 1 / 20_000
TURNS_BETWEEN_LOOKS = 64
LEAF_HASHES = 512
# Pairs that are compared at once: several arrays of 8 bytes each.
BLOCK_PAIRS = 2_000_000
# Up to so many leaders are compared with every hash instead of being looked up in buckets.
FEW_LEADERS = 200
# Comparisons to spend on joining the groups of leaders before the buckets are processed.
BALL_PAIRS = 300_000_000
# In buckets of at most this many hashes, all pairs are compared if any may still be in different groups.
STEPS = range(1, 65)
_SAMPLE = 64
# Hashes that differ from a crowd's centre in at most so many bits are its core.
_CORE_BITS = 12


class Density(NamedTuple):
    """The approximate number of pairs within the radius, and the hash with most neighbours."""

    near_pairs: float
    centre: np.uint64


def measure_density(hashes: Hashes, radius: int) -> Density:
    """Estimate density by comparing a sample of the hashes with all of them."""
    sample = hashes[:: max(1, len(hashes) // _SAMPLE)]
    found = [int(near(hashes, one, radius).sum()) - 1 for one in sample]
    return Density(sum(found) / len(found) * len(hashes) / 2, sample[np.argmax(found)])


def split_around(hashes: Hashes, centre: np.uint64, radius: int) -> tuple[Positions, Positions]:
    """Split hashes into those around `centre` and the rest, so that each near pair is within one part.

    Hashes at intermediate distances are in both parts: the distances of two near hashes from the centre
    differ by at most `radius`.
    """
    distances = np.bitwise_count(hashes ^ centre)
    around = np.flatnonzero(distances <= _CORE_BITS + radius)
    return around, np.flatnonzero(distances > _CORE_BITS)


def find_leaders(hashes: Hashes, radius: int) -> Positions:
    """The leader of each hash, by position: the first leader within `radius`, itself if it leads.

    Defined in order: a hash leads if no earlier leader is within the radius. Leaders are processed one by one
    while each takes many hashes; the remainder is solved by halves (`_lead_by_halves`).
    """
    leader = np.empty(len(hashes), dtype=np.int64)
    rest, left = np.arange(len(hashes)), hashes
    turns, before = 0, len(rest)
    while len(rest):
        close = near(left, left[0], radius)
        leader[rest[close]] = rest[0]
        rest, left = rest[~close], left[~close]
        turns += 1
        if turns % TURNS_BETWEEN_LOOKS == 0:
            taken, before = before - len(rest), len(rest)
            if taken < TURNS_BETWEEN_LOOKS * WORTH_A_TURN * len(rest):
                leader[rest] = rest[_lead_by_halves(left, radius)]
                break
    return leader


def _lead_by_halves(hashes: Hashes, radius: int) -> Positions:
    """`find_leaders` for hashes where few leaders have many followers.

    The leaders of the first half take their neighbours from the second half; the rest of the second half
    finds leaders among itself. Leaders are more than `radius` apart, so they never crowd, however dense the
    hashes are.
    """
    count = len(hashes)
    if count <= LEAF_HASHES:
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
    """Link all hashes within `radius` and return the smallest position of each hash's group.

    `leader` holds the leader of each hash, `group` the groups known so far. First, each leader not yet linked
    to an earlier one is linked with every hash near it, which joins nearly all of a dense crowd. Then, in
    each bucket, every hash outside the largest group is compared with the whole bucket, so that no link is
    missed.
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
    budget = BALL_PAIRS
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
    """Link near hashes of different groups within each bucket; large buckets are compared at once."""
    keys, order = buckets
    edges = bucket_edges(keys)
    sizes = np.diff(edges)
    in_order = group[order]
    differ = np.minimum.reduceat(in_order, edges[:-1]) != np.maximum.reduceat(in_order, edges[:-1])
    small = differ & (sizes <= STEPS.stop)
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
    """Link each of the sorted positions `at` with later ones in its bucket."""
    keys, order = buckets
    in_order, sorted_hashes = group[order], hashes[order]
    links = [(order[:0], order[:0])]
    for step in STEPS:
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


def _sort_choice(
    hashes: Hashes, plan: BandPlan, choice: tuple[int, ...]
) -> tuple[Hashes, Positions]:
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
    """The index of the first of `leaders` within `radius` of each hash, −1 if there is none."""
    if len(leaders) <= FEW_LEADERS:
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
    size = max(1, BLOCK_PAIRS // max(1, others))
    return [positions[start : start + size] for start in range(0, len(positions), size)]


def _cut_by_sum(positions: Positions, counts: Positions) -> list[Positions]:
    """Split `positions` so that the counts of each piece add up to about one block."""
    if not len(positions):
        return []
    block = np.cumsum(counts[positions]) // BLOCK_PAIRS
    return np.split(positions, np.flatnonzero(np.diff(block)) + 1)
