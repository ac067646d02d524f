"""Split 64-bit hashes into bands of bits, so that near hashes meet in a bucket.

Cut the 64 bits into m bands. Two hashes that differ in at most r bits differ in at most r bands, so
they agree on at least k = m − r. Hence for one of the C(m, k) choices of k bands they have the same
bits there: sort by those bits, and near hashes are neighbours in a bucket. Nothing within the radius
is missed, whatever the hashes are. (Manku, Jain, Das Sarma, "Detecting Near-Duplicates for Web
Crawling", WWW 2007, section 3.)
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

HASH_BITS = 64

# Measured with numpy 2.4 on one core: nanoseconds to key and sort a hash, to compare a pair.
_SORT_NS, _COMPARE_NS = 60.0, 6.0
# Buckets hold no more than this of evenly spread hashes, or all would count as crowded.
_MOST_IN_BUCKET = 20.0

Hashes = npt.NDArray[np.uint64]
Positions = npt.NDArray[np.int64]


class Plan(NamedTuple):
    """`bands` bands of which near hashes agree on `agreeing` at least."""

    radius: int
    bands: int
    agreeing: int

    @property
    def choices(self) -> list[tuple[int, ...]]:
        """Every choice of bands on which a near pair may agree, sorted."""
        return list(itertools.combinations(range(self.bands), self.agreeing))

    @property
    def key_bits(self) -> int:
        """Bits of the shortest key."""
        return sum(sorted(length for _, length in self._places())[: self.agreeing])

    def key(self, hashes: Hashes, choice: tuple[int, ...]) -> Hashes:
        """The bits of `hashes` in the bands of `choice`, side by side."""
        places = self._places()
        key = np.zeros(len(hashes), dtype=np.uint64)
        for band in choice:
            shift, length = places[band]
            key <<= np.uint64(length)
            key |= (hashes >> np.uint64(shift)) & np.uint64(2**length - 1)
        return key

    def widest(self, choice: tuple[int, ...]) -> int:
        """Bits of the key of `choice`."""
        return sum(self._places()[band][1] for band in choice)

    def first_choice(self, differences: Hashes) -> npt.NDArray[np.int64]:
        """The number of the first choice on whose bands each pair (given by its XOR) agrees."""
        agrees = np.stack(
            [
                (differences >> np.uint64(shift)) & np.uint64(2**length - 1) == 0
                for shift, length in self._places()
            ]
        )
        first = np.full(len(differences), -1, dtype=np.int64)
        for number, choice in reversed(list(enumerate(self.choices))):
            first[agrees[list(choice)].all(axis=0)] = number
        return first

    def _places(self) -> list[tuple[int, int]]:
        """(shift, length) of each band; together they are all bits."""
        edges = [HASH_BITS * band // self.bands for band in range(self.bands + 1)]
        return [(a, b - a) for a, b in itertools.pairwise(edges)]


def plan_bands(count: int, radius: int) -> Plan:
    """The cheapest plan for `count` hashes."""
    plans = [Plan(radius, radius + agreeing, agreeing) for agreeing in range(1, 6)]
    roomy = [p for p in plans if count <= _MOST_IN_BUCKET * 2**p.key_bits] or plans[-1:]
    return min(roomy, key=lambda plan: _cost_ns(plan, count))


def sort_into_buckets(keys: Hashes, key_bits: int) -> tuple[Hashes, Positions]:
    """Sorted keys and the positions they come from; equal keys in the order of their positions.

    Key and position share one 64-bit number, which sorts several times faster than an argsort.
    """
    position_bits = max(1, (len(keys) - 1).bit_length())
    if key_bits + position_bits > HASH_BITS:
        order = np.argsort(keys, kind="stable")
        return keys[order], order.astype(np.int64)
    packed = keys << np.uint64(position_bits)
    packed |= np.arange(len(keys), dtype=np.uint64)
    packed.sort()
    positions = (packed & np.uint64(2**position_bits - 1)).astype(np.int64)
    packed >>= np.uint64(position_bits)
    return packed, positions


def bucket_edges(keys: Hashes) -> Positions:
    """Where the buckets of sorted keys begin, and at the end their length."""
    starts = np.flatnonzero(keys[1:] != keys[:-1]) + 1
    return np.concatenate(([0], starts, [len(keys)])) if len(keys) else np.zeros(1, np.int64)


def near(first: Hashes, second: Hashes, radius: int) -> npt.NDArray[np.bool_]:
    """Whether hashes differ in at most `radius` bits; arrays that broadcast."""
    result: npt.NDArray[np.bool_] = np.bitwise_count(first ^ second) <= radius
    return result


def _cost_ns(plan: Plan, count: int) -> float:
    pairs: float = count * count / 2 / 2**plan.key_bits
    choices = math.comb(plan.bands, plan.agreeing)
    return choices * (count * _SORT_NS + pairs * _COMPARE_NS)
