"""Which row represents which: the survivor order and exact duplicates.

**The survivor order.** Among duplicates, the row with the best (lowest) rank represents the others; among
equals the one with most pixels; then the one with the smallest key. Rows without a rank come last. The order
is total and depends only on the rows, so the same row survives whatever the history.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.column_file import POSITION, SLICE, ColumnFile, Positions32
from pipeline.dedupe.rows import KEPT_CODE, Rows, reason_code


def order_survivors(rows: Rows) -> Positions32:
    """The indices of the rows in survivor order."""
    pixels, rank = (rows.column(name).read() for name in ("pixels", "rank"))
    order = np.lexsort((-pixels, rank))  # stable: ties stay sorted by key
    return order.astype(POSITION)


def reject_exact_duplicates(rows: Rows, order: Positions32) -> Positions32:
    """Set the reason of rows with the same pixels as a better row; `order` is the survivor order.

    Returns for each row the index of the row that represents it, its own if it stays. Works on one slice of
    the hashes at a time: equal hashes are in the same slice.
    """
    stands_for = np.arange(len(rows), dtype=POSITION)
    place = np.empty(len(rows), dtype=POSITION)
    place[order] = stands_for
    rasters, files = rows.column("raster"), rows.column("file")
    slices = -(-len(rows) // SLICE)
    for number in range(slices):
        usable, raster = _read_slice(rows, rasters, number, slices)
        copies, survivors = _find_copies(usable, raster, place)
        same_file = (files.take(copies) == _take_any(files, survivors)).all(axis=1)
        reasons = np.where(
            same_file, reason_code("duplicate_bytes"), reason_code("duplicate_pixels")
        )
        rows.reason[copies] = reasons
        stands_for[copies] = survivors
    return stands_for


def _read_slice(
    rows: Rows, rasters: ColumnFile, number: int, slices: int
) -> tuple[Positions32, npt.NDArray[np.uint64]]:
    """The usable rows whose hashes are in a slice, and these hashes [rows, 2]."""
    usable, raster = [np.empty(0, POSITION)], [np.empty((0, 2), np.uint64)]
    for start, block in rasters.blocks():
        is_usable = rows.reason[start : start + len(block)] == KEPT_CODE
        inside = np.flatnonzero(is_usable & (block[:, 0] % np.uint64(slices) == number))
        usable.append((inside + start).astype(POSITION))
        raster.append(block[inside])
    return np.concatenate(usable), np.concatenate(raster)


def _find_copies(
    usable: Positions32, raster: npt.NDArray[np.uint64], place: Positions32
) -> tuple[Positions32, Positions32]:
    """The rows with the same pixels as an earlier row of the order, sorted, and the first such row."""
    order = np.lexsort((place[usable], raster[:, 1], raster[:, 0]))
    usable, raster = usable[order], raster[order]
    is_first = np.ones(len(usable), dtype=np.bool_)
    is_first[1:] = (raster[1:] != raster[:-1]).any(axis=1)
    survivors = usable[is_first][np.cumsum(is_first) - 1]
    copies, survivors = usable[~is_first], survivors[~is_first]
    by_key = np.argsort(copies)
    return copies[by_key], survivors[by_key]


def _take_any(numbers: ColumnFile, places: Positions32) -> npt.NDArray[Any]:
    """The numbers at `places`, in any order."""
    sorted_places, back = np.unique(places, return_inverse=True)
    return numbers.take(sorted_places)[back]
