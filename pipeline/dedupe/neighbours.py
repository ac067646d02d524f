"""Find all pairs of hashes within a radius, by parts; crowds are told apart, not listed.

A part is one choice of bands (see `bands`) and one slice of its keys. In a small
bucket every pair is compared, and a near one listed by the first of the choices on which it agrees,
so once. A larger bucket is a crowd: its members are handed on to `crowds`, which never lists
pairs. So the memory of a part is bounded by its slice, and the pairs of a hash are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.bands import (
    Hashes,
    Plan,
    Positions,
    bucket_edges,
    plan_bands,
    sort_into_buckets,
)
from pipeline.engine import map_parts
from pipeline.errors import PipelineError

# A bucket with more hashes than this, or than four times what even spreading puts there, is a crowd.
CROWD = 32
SLICE_HASHES = 2_000_000
# Below this many hashes, starting processes takes longer than the work.
_WORTH_PROCESSES = 200_000
_READ_HASHES = 1_000_000

Pairs = npt.NDArray[np.int32]


class SearchPart(NamedTuple):
    """Slice `slice_number` of `slices` of the keys of one choice of bands."""

    hashes: Path
    plan: Plan
    choice: int
    slice_number: int
    slices: int
    crowd: int


@dataclass(frozen=True, kw_only=True)
class Found:
    """Near pairs [pairs, 2], the earlier position first, and the positions that are in crowds."""

    pairs: Pairs
    crowded: Pairs


def find_neighbours(
    hashes: Hashes, radius: int, *, scratch: Path, workers: int | None = 0
) -> Found:
    """Find every pair of different `hashes` within `radius` bits that is not within a crowd.

    `scratch` is a file that the worker processes read the hashes from; it is removed at the end.
    """
    plan = plan_bands(len(hashes), radius)
    slices = -(-len(hashes) // SLICE_HASHES) if len(hashes) else 0
    hashes.tofile(scratch)
    crowd = max(CROWD, 4 * len(hashes) // 2**plan.key_bits)
    parts = (
        SearchPart(scratch, plan, choice, number, slices, crowd)
        for choice in range(len(plan.choices))
        for number in range(slices)
    )
    few = len(hashes) < _WORTH_PROCESSES
    pairs, crowded = [np.empty((0, 2), np.int32)], np.zeros(len(hashes), dtype=np.bool_)
    try:
        for result in map_parts(search_part, parts, workers=0 if few else workers):
            if result.failure is not None:
                raise PipelineError(
                    f"The search for near duplicates stopped: {result.failure}. It may have run out "
                    "of memory: give the command again with fewer --workers."
                )
            pairs.append(result.result.pairs)
            crowded[result.result.crowded] = True
    finally:
        scratch.unlink(missing_ok=True)
    return Found(pairs=np.concatenate(pairs), crowded=np.flatnonzero(crowded).astype(np.int32))


def search_part(part: SearchPart) -> Found:
    """Search one slice of one choice."""
    choice = part.plan.choices[part.choice]
    key_bits = part.plan.widest(choice)
    hashes, positions, keys = _read_slice(part, choice, key_bits)
    keys, order = sort_into_buckets(keys, key_bits)
    in_crowd = _find_crowds(keys, part.crowd)
    pairs = [np.empty((0, 2), np.int32)]
    for step, at in _close_by(keys, in_crowd):
        first, second = order[at], order[at + step]
        difference = hashes[first] ^ hashes[second]
        close = np.flatnonzero(np.bitwise_count(difference) <= part.plan.radius)
        close = close[part.plan.first_choice(difference[close]) == part.choice]
        ends = positions[np.stack([first[close], second[close]], axis=1)]
        pairs.append(np.sort(ends, axis=1).astype(np.int32))
    crowded = np.empty(0, np.int32)
    if in_crowd is not None:
        crowded = positions[order[in_crowd]].astype(np.int32)
    return Found(pairs=np.concatenate(pairs), crowded=crowded)


def _find_crowds(keys: Hashes, crowd: int) -> npt.NDArray[np.bool_] | None:
    """Which of the sorted places are in buckets of more than `crowd`, None if there are none."""
    if not (keys[crowd:] == keys[:-crowd]).any():
        return None
    sizes = np.diff(bucket_edges(keys))
    return np.repeat(sizes > crowd, sizes)


def _close_by(
    keys: Hashes, in_crowd: npt.NDArray[np.bool_] | None
) -> Iterator[tuple[int, Positions]]:
    """Every two places of one bucket: how far apart, and the first of each; crowds left out."""
    at = np.flatnonzero(keys[1:] == keys[:-1])
    if in_crowd is not None:
        at = at[~in_crowd[at]]
    step = 1
    while len(at):
        yield step, at
        step += 1
        at = at[at + step < len(keys)]
        at = at[keys[at + step] == keys[at]]


def _read_slice(
    part: SearchPart, choice: tuple[int, ...], key_bits: int
) -> tuple[Hashes, Positions, Hashes]:
    """The hashes whose keys fall in the slice, their positions and keys; reads a bit at a time."""
    everything = np.memmap(part.hashes, dtype=np.uint64, mode="r")
    if part.slices == 1:
        hashes = np.asarray(everything)
        return hashes, np.arange(len(hashes)), part.plan.key(hashes, choice)
    low, high = ((part.slice_number + n) * 2**key_bits // part.slices for n in (0, 1))
    read: list[tuple[Hashes, Positions, Hashes]] = []
    for start in range(0, len(everything), _READ_HASHES):
        hashes = np.asarray(everything[start : start + _READ_HASHES])
        keys = part.plan.key(hashes, choice)
        inside = np.flatnonzero((keys >= np.uint64(low)) & (keys <= np.uint64(high - 1)))
        read.append((hashes[inside], inside + start, keys[inside]))
    columns = zip(*read, strict=True)
    hashes, positions, keys = (np.concatenate(column) for column in columns)
    return hashes, positions, keys
