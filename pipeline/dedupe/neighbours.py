"""Find all pairs of hashes within a radius, by parts; crowds are told apart, not listed.

A part is one choice of bands (see `bands`) and one slice of its keys. In a small bucket every pair is
compared, and a near one listed by the first of the choices on which it agrees, so once. A larger
bucket is a crowd: its members are named, and `crowds` sees to them. So the memory of a part is
bounded by its slice, and the pairs of a hash are bounded.

The hashes of a part are laid in the order of their keys, and each is compared with the next, with the
next but one, and so on as far as the buckets reach: long runs of numbers, for which numpy uses the
processor's vector instructions. What is compared across the end of a bucket is compared for nothing.
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
    Hashes,
    Plan,
    Positions,
    bucket_edges,
    even_bucket,
    near,
    plan_bands,
    search_cost_ns,
    sort_into_buckets,
)
from pipeline.dedupe.column_file import POSITION, SLICE, NumberFile, Places

# A bucket with more hashes than this, or than twice what even spreading puts there, is a crowd.
CROWD = 32
# Hashes that are compared at once: they and their differences stay in the processor's cache.
_BLOCK_HASHES = 32_768
# A bucket with more is compared apart, lest the others of its block be compared as far as it reaches.
_LARGE_BUCKET = 256
# The largest bucket, in means, from which on it is worth while to order them by size.
_UNEVEN = 8.0
# Less work than this takes less time than to start processes for it.
_WORTH_PROCESSES_NS = 0.3e9

Pairs = npt.NDArray[np.int32]


class SearchPart(NamedTuple):
    """Slice `slice_number` of `slices` of the keys of one choice of bands."""

    hashes: NumberFile
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


class _Layout(NamedTuple):
    """Hashes in the order of their keys, their positions, and how many are in each bucket."""

    hashes: Hashes
    positions: Places
    sizes: Positions


def find_neighbours(
    hashes: NumberFile,
    radius: int,
    *,
    workers: int | None = 0,
    plan: Plan | None = None,
    crowd: int | None = None,
) -> Found:
    """Find every pair of different `hashes` within `radius` bits that is not within a crowd.

    `plan`, and `crowd`, the hashes of a bucket above which it is one, are for hashes that are known
    not to be spread evenly.
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
    if search_cost_ns(plan, count) < _WORTH_PROCESSES_NS:
        workers = 0
    return _gather(parts, count, workers)


def _gather(parts: Iterator[SearchPart], count: int, workers: int | None) -> Found:
    pairs, crowded = [np.empty((0, 2), np.int32)], np.zeros(count, dtype=np.bool_)
    for result in map_parts(search_part, parts, workers=workers):
        if result.failure is not None:
            raise PipelineError(
                f"The search for near duplicates stopped: {result.failure}. It may have run out "
                "of memory: give the command again with fewer --workers."
            )
        pairs.append(result.result.pairs)
        crowded[result.result.crowded] = True
    return Found(pairs=np.concatenate(pairs), crowded=np.flatnonzero(crowded).astype(np.int32))


def search_part(part: SearchPart) -> Found:
    """Search one slice of one choice."""
    layout, crowded = _set_crowds_apart(_lay_out(part), part.crowd)
    layout = _order_by_size(layout)
    hashes, positions, _ = layout
    pairs = [np.empty((0, 2), np.int32)]
    for places in _close_by(layout, part.plan.radius):
        first, second = hashes[places.T]
        places = places[part.plan.is_first(first ^ second, part.choice)]
        pairs.append(np.sort(positions[places], axis=1).astype(np.int32))
    return Found(pairs=np.concatenate(pairs), crowded=crowded.astype(np.int32))


def _lay_out(part: SearchPart) -> _Layout:
    choice = part.plan.choices[part.choice]
    hashes, positions = _read_slice(part, choice)
    keys, order = sort_into_buckets(part.plan.key(hashes, choice), part.plan.widest(choice))
    sizes = np.diff(bucket_edges(keys))
    del keys
    return _Layout(hashes[order], positions[order], sizes)


def _set_crowds_apart(layout: _Layout, crowd: int) -> tuple[_Layout, Places]:
    """What is in buckets of at most `crowd`, and the positions of the rest."""
    hashes, positions, sizes = layout
    is_crowd = sizes > crowd
    if not is_crowd.any():
        return layout, positions[:0]
    apart = np.repeat(is_crowd, sizes)
    return _Layout(hashes[~apart], positions[~apart], sizes[~is_crowd]), positions[apart]


def _order_by_size(layout: _Layout) -> _Layout:
    """Lay buckets of one size together, where some are much larger than most.

    All of a block are compared as far as its largest bucket reaches.
    """
    hashes, positions, sizes = layout
    if not len(sizes) or sizes.max() <= _UNEVEN * sizes.mean():
        return layout
    order = np.argsort(sizes, kind="stable")
    starts = np.cumsum(sizes) - sizes
    sizes = sizes[order]
    moved = np.repeat(starts[order] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(hashes))
    return _Layout(hashes[moved], positions[moved], sizes)


def _close_by(layout: _Layout, radius: int) -> Iterator[Positions]:
    """Every two places [pairs, 2] within `radius` that lie in one bucket, and some that don't."""
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
    """The places within `radius` of a large bucket, some of its rows at a time."""
    rows = max(1, _BLOCK_HASHES // len(hashes))
    for start in range(0, len(hashes), rows):
        close = near(hashes[start : start + rows, None], hashes[None, start:], radius)
        first, second = np.divmod(np.flatnonzero(close), close.shape[1])
        later = first < second
        yield start + np.stack([first[later], second[later]], axis=1)


def _compare_block(hashes: Hashes, block: int, reach: int, radius: int) -> Positions:
    """The places within `radius` among the first `block` and less than `reach` after them."""
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


def _read_slice(part: SearchPart, choice: tuple[int, ...]) -> tuple[Hashes, Places]:
    """The hashes whose keys fall in the slice, and their positions; the others are passed over."""
    read: list[tuple[Hashes, Places]] = []
    for start, hashes in part.hashes.blocks():
        inside = part.plan.find_slice(hashes, choice, part.slice_number, part.slices)
        read.append((hashes[inside], (inside + start).astype(POSITION)))
    hashes, positions = (np.concatenate(column) for column in zip(*read, strict=True))
    return hashes, positions
