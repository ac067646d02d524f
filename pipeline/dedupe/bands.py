"""Split 64-bit hashes into bands of bits, so that near hashes meet in a bucket.

Cut the 64 bits into groups of bits, and give each a radius so that the radii + 1 add up to r + 1. Two
hashes that differ in at most r bits are within its radius in at least one group: were they beyond it
in each, they would differ in r + 1 bits. Cut a group of radius s into s + k bands. Within it they differ
in at most s bands, so they agree on k. Hence for one choice of k bands of one group they have the same
bits there: sort by those bits, and near hashes lie in one bucket. Nothing within the radius is missed,
whatever the hashes are.

For one group: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3;
for several groups of one band each: Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with
Multi-Index Hashing", CVPR 2012, section 3. Together they need fewer choices than either: at radius 4
with keys of 16 bits 7, not 70.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HASH_BITS = 64

# Measured with numpy 2.4 on one core, in nanoseconds: to key and fetch a hash, to sort it by 16 bits of
# its key, to compare it with another.
_FETCH_NS, _SORT_NS, _COMPARE_NS = 8.0, 16.0, 0.9
_DIGIT_BITS = 16
_MOST_KEY_BITS = 2 * _DIGIT_BITS
_MOST_CHOICES = 500

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """`groups` groups of bits; near hashes agree on `agreeing` bands of one of them at least."""

    radius: int
    groups: int
    agreeing: int

    @property
    def choices(self) -> list[tuple[int, ...]]:
        """Every choice of bands on which a near pair may agree."""
        return _choices(self)

    @property
    def key_bits(self) -> int:
        """Bits of the shortest key."""
        return min(map(self.widest, self.choices))

    def widest(self, choice: tuple[int, ...]) -> int:
        """Bits of the key of `choice`."""
        return sum(self._places()[band][1] for band in choice)

    def key(self, hashes: Hashes, choice: tuple[int, ...]) -> Hashes:
        """The bits of `hashes` in the bands of `choice`, side by side."""
        places = self._places()
        key = np.zeros(len(hashes), dtype=np.uint64)
        for band in choice:
            shift, length = places[band]
            key <<= np.uint64(length)
            key |= (hashes >> np.uint64(shift)) & np.uint64(2**length - 1)
        return key

    def find_slice(
        self, hashes: Hashes, choice: tuple[int, ...], number: int, slices: int
    ) -> Positions:
        """Which of `hashes` are in slice `number` of the keys; slices are even within a quarter.

        By the first bits of the keys, as numbers of 16 bits: on those numpy is four times faster.
        """
        most = min((4 * slices - 1).bit_length(), _DIGIT_BITS)
        keys, bits = np.zeros(len(hashes), dtype=np.uint16), 0
        for band in choice:
            shift, length = self._places()[band]
            taken = min(length, most - bits)
            if not taken:
                break
            keys <<= np.uint16(taken)
            digits = (hashes >> np.uint64(shift + length - taken)).astype(np.uint16)
            keys |= digits & np.uint16(2**taken - 1)
            bits += taken
        low, high = (-(-(number + n) * 2**bits // slices) for n in (0, 1))
        keys -= np.uint16(low)
        return np.flatnonzero(keys < high - low)

    def is_first(self, differences: Hashes, number: int) -> npt.NDArray[np.bool_]:
        """Whether pairs, given by their XOR, agree on choice `number` and on none before it."""
        agrees = np.stack(
            [
                (differences >> np.uint64(shift)) & np.uint64(2**length - 1) == 0
                for shift, length in self._places()
            ]
        )
        first = np.ones(len(differences), dtype=np.bool_)
        for band in self.choices[number]:
            first &= agrees[band]
        for earlier in self.choices[:number]:
            first &= ~np.logical_and.reduce(agrees[list(earlier)])
        return first

    def _bands_by_group(self) -> list[int]:
        edges = [(self.radius + 1) * group // self.groups for group in range(self.groups + 1)]
        return [b - a - 1 + self.agreeing for a, b in itertools.pairwise(edges)]

    def _places(self) -> list[tuple[int, int]]:
        """(shift, length) of each band; together they are all bits."""
        return _cut_evenly(sum(self._bands_by_group()))


@functools.cache
def _cut_evenly(bands: int) -> list[tuple[int, int]]:
    edges = [HASH_BITS * band // bands for band in range(bands + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@functools.cache
def _choices(plan: Plan) -> list[tuple[int, ...]]:
    ends = list(itertools.accumulate(plan._bands_by_group()))
    groups = [range(a, b) for a, b in itertools.pairwise([0, *ends])]
    return [c for group in groups for c in itertools.combinations(group, plan.agreeing)]


def plan_bands(count: int, radius: int) -> Plan:
    """The cheapest plan for `count` evenly spread hashes."""
    return min(_plans(radius), key=lambda plan: search_cost_ns(plan, count))


def plan_longest(radius: int, *, choices: int) -> Plan:
    """The plan with the longest keys of those with at most so many choices."""
    few = [plan for plan in _plans(radius) if len(plan.choices) <= choices]
    return max(few, key=lambda plan: plan.key_bits)


def sort_into_buckets(keys: Hashes, key_bits: int) -> tuple[Hashes, Positions]:
    """Sorted keys and the positions they come from; equal keys in the order of their positions.

    By 16 bits at a time: of those numpy makes a radix sort, several times faster than by 64.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, key_bits, _DIGIT_BITS):
        digits = (keys[order] >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits, kind="stable")]
    return keys[order], order


def bucket_edges(keys: Hashes) -> Positions:
    """Where the buckets of sorted keys begin, and at the end their length."""
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate(([0], starts, [len(keys)])) if len(keys) else np.zeros(1, np.int64)


def near(first: Hashes, second: Hashes, radius: int) -> npt.NDArray[np.bool_]:
    """Whether hashes differ in at most `radius` bits; arrays that broadcast."""
    result: npt.NDArray[np.bool_] = np.bitwise_count(first ^ second) <= radius
    return result


def even_bucket(plan: Plan, count: int) -> float:
    """Hashes in the fullest bucket, more or less, if `count` are spread evenly."""
    mean = count / 2.0**plan.key_bits
    return mean + 4 * math.sqrt(mean) + 4


def search_cost_ns(plan: Plan, count: int) -> float:
    """About how long one core searches `count` evenly spread hashes."""
    digits = -(-max(map(plan.widest, plan.choices)) // _DIGIT_BITS)
    one = _FETCH_NS + digits * _SORT_NS + even_bucket(plan, count) * _COMPARE_NS
    return one * len(plan.choices) * count


@functools.cache
def _plans(radius: int) -> list[Plan]:
    plans = (
        Plan(radius, groups, agreeing)
        for groups in range(1, radius + 2)
        for agreeing in range(1, 9)
    )
    return [p for p in plans if p.key_bits <= _MOST_KEY_BITS and len(p.choices) <= _MOST_CHOICES]
