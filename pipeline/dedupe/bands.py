"""Split 64-bit hashes into bands of bits, so that near hashes fall into the same bucket.

Divide the 64 bits into groups and give each group a radius, so that the sum of (radius + 1) over the groups
is r + 1. Two hashes that differ in at most r bits are within the radius of at least one group: if they
exceeded it in every group, they would differ in at least r + 1 bits. Divide a group of radius s into s + k
bands. A pair within that radius differs in at most s bands, so it agrees on at least k. For some choice of k
bands of one group the two hashes therefore have identical bits: sorted by those bits, they share a bucket.
No pair within the radius is missed, however the hashes are distributed.

For one group: Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web Crawling", WWW 2007, section 3;
for several groups of one band each: Norouzi, Punjani, Fleet, "Fast Search in Hamming Space with
Multi-Index Hashing", CVPR 2012, section 3. The combination needs fewer choices than either method: 7
instead of 70 at radius 4 with 16-bit keys.
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HASH_BITS = 64

# Nanoseconds with numpy 2.4 on one core: extract a hash's key, sort it by 16 bits, compare it with another.
_FETCH_NS, _SORT_NS, _COMPARE_NS = 8.0, 16.0, 0.9
_DIGIT_BITS = 16
_MOST_KEY_BITS = 2 * _DIGIT_BITS
_MOST_CHOICES = 500

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class BandPlan(NamedTuple):
    """A division into `groups` groups of bits; near hashes agree on `agreeing` bands of at least one."""

    radius: int
    groups: int
    agreeing: int

    @property
    def choices(self) -> list[tuple[int, ...]]:
        """Every choice of bands on which a near pair can agree."""
        return _choices(self)

    @property
    def key_bits(self) -> int:
        """Bits of the shortest key."""
        return min(map(self.widest, self.choices))

    def widest(self, choice: tuple[int, ...]) -> int:
        """Bits of the key of `choice`."""
        return sum(self._places()[band][1] for band in choice)

    def key(self, hashes: Hashes, choice: tuple[int, ...]) -> Hashes:
        """The bits of `hashes` in the bands of `choice`, concatenated."""
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
        """Indices of the `hashes` whose keys are in slice `number`; slice sizes differ by at most a quarter.

        Uses the first bits of the keys as 16-bit numbers, for which numpy is four times faster.
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
        """Whether pairs, given as XOR, agree on choice `number` and on no earlier choice."""
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
        """(shift, length) of each band; the bands cover all 64 bits."""
        return _cut_evenly(sum(self._bands_by_group()))


@functools.cache
def _cut_evenly(bands: int) -> list[tuple[int, int]]:
    edges = [HASH_BITS * band // bands for band in range(bands + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@functools.cache
def _choices(plan: BandPlan) -> list[tuple[int, ...]]:
    ends = list(itertools.accumulate(plan._bands_by_group()))
    groups = [range(a, b) for a, b in itertools.pairwise([0, *ends])]
    return [c for group in groups for c in itertools.combinations(group, plan.agreeing)]


def plan_bands(count: int, radius: int) -> BandPlan:
    """The cheapest plan for `count` evenly distributed hashes."""
    return min(_plans(radius), key=lambda plan: search_cost_ns(plan, count))


def plan_longest(radius: int, *, choices: int) -> BandPlan:
    """Of the plans with at most this many choices, the one with the longest keys."""
    few = [plan for plan in _plans(radius) if len(plan.choices) <= choices]
    return max(few, key=lambda plan: plan.key_bits)


def sort_into_buckets(keys: Hashes, key_bits: int) -> tuple[Hashes, Positions]:
    """Sorted keys and the positions they come from; equal keys stay in the order of their positions.

    Sorts 16 bits at a time: numpy has a radix sort for those, several times faster than a 64-bit sort.
    """
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    for shift in range(_DIGIT_BITS, key_bits, _DIGIT_BITS):
        digits = (keys[order] >> np.uint64(shift)).astype(np.uint16)
        order = order[np.argsort(digits, kind="stable")]
    return keys[order], order


def bucket_edges(keys: Hashes) -> Positions:
    """The start of each bucket of sorted keys, followed by the number of keys."""
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate(([0], starts, [len(keys)])) if len(keys) else np.zeros(1, np.int64)


def near(first: Hashes, second: Hashes, radius: int) -> npt.NDArray[np.bool_]:
    """Whether hashes differ in at most `radius` bits; the arrays broadcast."""
    result: npt.NDArray[np.bool_] = np.bitwise_count(first ^ second) <= radius
    return result


def even_bucket(plan: BandPlan, count: int) -> float:
    """Approximate size of the fullest bucket if `count` hashes are evenly distributed."""
    mean = count / 2.0**plan.key_bits
    return mean + 4 * math.sqrt(mean) + 4


def search_cost_ns(plan: BandPlan, count: int) -> float:
    """Approximate time that one core needs to search `count` evenly distributed hashes."""
    digits = -(-max(map(plan.widest, plan.choices)) // _DIGIT_BITS)
    one = _FETCH_NS + digits * _SORT_NS + even_bucket(plan, count) * _COMPARE_NS
    return one * len(plan.choices) * count


@functools.cache
def _plans(radius: int) -> list[BandPlan]:
    plans = (
        BandPlan(radius, groups, agreeing)
        for groups in range(1, radius + 2)
        for agreeing in range(1, 9)
    )
    return [p for p in plans if p.key_bits <= _MOST_KEY_BITS and len(p.choices) <= _MOST_CHOICES]
