"""Find all pairs of hashes within a radius, in parts; crowds are only reported, not listed.

A part is one choice of bands (see `bands`) and one slice of its keys. In a small bucket every pair is
compared; a near pair is reported by the first choice on which it agrees, so exactly once. A larger bucket is
a crowd: only its members are reported, and `crowds` handles them. This bounds the memory of a part by its
slice, and the number of pairs per hash.

The hashes of a part are sorted by key; each is compared with the next, the next but one, and so on up to the
size of the largest bucket. These are long runs of numbers, for which numpy uses vector instructions.
Comparisons that cross a bucket's end are wasted, but harmless.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.core.engine import map_parts
from pipeline.core.errors import PipelineError
from pipeline.dedupe.bands import (
    BandPlan,
    Hashes,
    Positions,
    bucket_edges,
    even_bucket,
    near,
    plan_bands,
    search_cost_ns,
    sort_into_buckets,
)
from pipeline.dedupe.column_file import POSITION, SLICE, ColumnFile, Positions32

# A bucket with more hashes than this, or than twice the even distribution's, is a crowd.
CROWD = 32
# Hashes compared at once: they and their differences stay in the CPU's cache.
_BLOCK_HASHES = 32_768
# Larger buckets are compared separately, so that the rest of their block need not reach as far.
_LARGE_BUCKET = 256
# Ratio of the largest bucket to the mean from which sorting buckets by size pays.
_UNEVEN = 8.0
# Less work than this takes less time than starting processes for it.
WORTH_PROCESSES_NS = 0.3e9

Pairs = npt.NDArray[np.int32]


class SearchPart(NamedTuple):
    """Slice `slice_number` of `slices` of the keys of one choice of bands."""

    hashes: ColumnFile
    plan: BandPlan
    choice: int
    slice_number: int
    slices: int
    crowd: int


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """Near pairs [pairs, 2] with the earlier position first, and the positions that are in crowds."""

    pairs: Pairs
    crowded: Pairs


class _Layout(NamedTuple):
    """Hashes sorted by key, their positions, and the size of each bucket."""

    hashes: Hashes
    positions: Positions32
    sizes: Positions


def find_neighbours(
    hashes: ColumnFile,
    radius: int,
    *,
    workers: int | None = 0,
    plan: BandPlan | None = None,
    crowd: int | None = None,
) -> Neighbours:
    """Find every pair of different `hashes` within `radius` bits that is not within a crowd.

    Pass `plan` and `crowd` (the bucket size above which it is a crowd) for hashes that are known to be
    unevenly distributed.
    """
    count = hashes.count
    plan = plan or plan_bands(count, radius)
    crowd = crowd or max(CROWD, int(2 * even_bucket(plan, count)))
    slices = -(-count // SLICE)
    parts = (
        SearchPart(hashes, plan, choice, number, slices, crowd)
        for choice in range(len(plan.choices))
        for number in range(slices)
    )
    if search_cost_ns(plan, count) < WORTH_PROCESSES_NS:
        workers = 0
    return _gather(parts, count, workers)


def _gather(parts: Iterator[SearchPart], count: int, workers: int | None) -> Neighbours:
    pairs, crowded = [np.empty((0, 2), np.int32)], np.zeros(count, dtype=np.bool_)
    for result in map_parts(search_part, parts, workers=workers):
        if result.failure is not None:
            raise PipelineError(
                f"The search for near duplicates stopped: {result.failure}. It may have run out "
                "of memory: run the command again with fewer --workers."
            )
        pairs.append(result.result.pairs)
        crowded[result.result.crowded] = True
    return Neighbours(pairs=np.concatenate(pairs), crowded=np.flatnonzero(crowded).astype(np.int32))


def search_part(part: SearchPart) -> Neighbours:
    """Search one slice of one choice of bands."""
    layout, crowded = _separate_crowds(_sort_slice(part), part.crowd)
    layout = _order_by_size(layout)
    hashes, positions, _ = layout
    pairs = [np.empty((0, 2), np.int32)]
    for places in _near_pairs(layout, part.plan.radius):
        first, second = hashes[places.T]
        places = places[part.plan.is_first(first ^ second, part.choice)]
        pairs.append(np.sort(positions[places], axis=1).astype(np.int32))
    return Neighbours(pairs=np.concatenate(pairs), crowded=crowded.astype(np.int32))


def _sort_slice(part: SearchPart) -> _Layout:
    choice = part.plan.choices[part.choice]
    hashes, positions = _read_slice(part, choice)
    keys, order = sort_into_buckets(part.plan.key(hashes, choice), part.plan.widest(choice))
    sizes = np.diff(bucket_edges(keys))
    del keys
    return _Layout(hashes[order], positions[order], sizes)


def _separate_crowds(layout: _Layout, crowd: int) -> tuple[_Layout, Positions32]:
    """Keep the buckets of at most `crowd` hashes; return the positions of the others separately."""
    hashes, positions, sizes = layout
    is_crowd = sizes > crowd
    if not is_crowd.any():
        return layout, positions[:0]
    apart = np.repeat(is_crowd, sizes)
    return _Layout(hashes[~apart], positions[~apart], sizes[~is_crowd]), positions[apart]


def _order_by_size(layout: _Layout) -> _Layout:
    """Put buckets of equal size together if some are much larger than the mean.

    All hashes of a block are compared as far as its largest bucket reaches.
    """
    hashes, positions, sizes = layout
    if not len(sizes) or sizes.max() <= _UNEVEN * sizes.mean():
        return layout
    order = np.argsort(sizes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    sizes = sizes[order]
    moved = np.repeat(starts[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(hashes))
    return _Layout(hashes[moved], positions[moved], sizes)


def _near_pairs(layout: _Layout, radius: int) -> Iterator[Positions]:
    """Pairs of indices [pairs, 2] within `radius`: all that share a bucket, and some that don't."""
    hashes, _, sizes = layout
    edges = np.concatenate(([0], np.cumsum(sizes)))
    large = np.flatnonzero(sizes > _LARGE_BUCKET)
    for bucket in large:
        start, stop = edges[bucket], edges[bucket + 1]
        yield from (start + pairs for pairs in _compare_bucket(hashes[start:stop], radius))
    begins, ends = [0, *edges[large + 1]], [*edges[large], len(hashes)]
    for begin, end in zip(begins, ends, strict=True):
        for start in range(begin, end, _BLOCK_HASHES):
            stop = min(start + _BLOCK_HASHES, end)
            first, last = np.searchsorted(edges, start, "right") - 1, np.searchsorted(edges, stop)
            reach = int(sizes[first:last].max())
            yield start + _compare_block(hashes[start:end], stop - start, reach, radius)


def _compare_bucket(hashes: Hashes, radius: int) -> Iterator[Positions]:
    """Pairs of indices within `radius` in a large bucket, some rows at a time."""
    rows = max(1, _BLOCK_HASHES // len(hashes))
    for start in range(0, len(hashes), rows):
        close = near(hashes[start : start + rows, None], hashes[None, start:], radius)
        first, second = np.divmod(np.flatnonzero(close), close.shape[1])
        later = first < second
        yield start + np.stack([first[later], second[later]], axis=1)


def _compare_block(hashes: Hashes, block: int, reach: int, radius: int) -> Positions:
    """Pairs of indices within `radius`: one of the first `block`, and one less than `reach` after it."""
    differences = np.empty(block, dtype=np.uint64)
    distances = np.empty(block, dtype=np.uint8)
    found = [np.empty((0, 2), dtype=np.int64)]
    for step in range(1, min(reach, len(hashes))):
        some = min(block, len(hashes) - step)
        np.bitwise_xor(hashes[:some], hashes[step : step + some], out=differences[:some])
        np.bitwise_count(differences[:some], out=distances[:some])
        first = np.flatnonzero(distances[:some] <= radius)
        if len(first):
            found.append(np.stack([first, first + step], axis=1))
    return np.concatenate(found)


def _read_slice(part: SearchPart, choice: tuple[int, ...]) -> tuple[Hashes, Positions32]:
    """The hashes whose keys are in the slice, and their positions."""
    read: list[tuple[Hashes, Positions32]] = []
    for start, hashes in part.hashes.blocks():
        inside = part.plan.find_slice(hashes, choice, part.slice_number, part.slices)
        read.append((hashes[inside], (inside + start).astype(POSITION)))
    hashes, positions = (np.concatenate(column) for column in zip(*read, strict=True))
    return hashes, positions
