"""Which row stands for which: the survivor order and exact duplicates.

**The survivor order.** Of rows that are alike, the one with the best (lowest) rank stands for the
others; among equals the one with the most pixels; among those the one with the smallest key. A row
without a rank comes after every row with one. The order is total and depends on the rows alone, so
whatever the history, the same row survives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.column_file import POSITION, SLICE, NumberFile, Places
from pipeline.dedupe.rows import KEPT_CODE, Rows, reason_code


def order_survivors(rows: Rows) -> Places:
    """The indices of the rows in the survivor order."""
    pixels, rank = (rows.numbers(name).read() for name in ("pixels", "rank"))
    order = np.lexsort((-pixels, rank))  # stable: ties stay sorted by key
    return order.astype(POSITION)


def reject_exact_duplicates(rows: Rows, order: Places) -> Places:
    """Set the reason of rows whose pixels a better row has too; `order` is the survivor order.

    Returns for each row the index of the row that stands for it, its own for those that stay. By
    slices of the hashes: equal ones are in the same.
    """
    stands_for = np.arange(len(rows), dtype=POSITION)
    place = np.empty(len(rows), dtype=POSITION)
    place[order] = stands_for
    rasters, files = rows.numbers("raster"), rows.numbers("file")
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
    rows: Rows, rasters: NumberFile, number: int, slices: int
) -> tuple[Places, npt.NDArray[np.uint64]]:
    """The usable rows whose hashes are in a slice, and their hashes [rows, 2]."""
    usable, raster = [np.empty(0, POSITION)], [np.empty((0, 2), np.uint64)]
    for start, block in rasters.blocks():
        is_usable = rows.reason[start : start + len(block)] == KEPT_CODE
        inside = np.flatnonzero(is_usable & (block[:, 0] % np.uint64(slices) == number))
        usable.append((inside + start).astype(POSITION))
        raster.append(block[inside])
    return np.concatenate(usable), np.concatenate(raster)


def _find_copies(
    usable: Places, raster: npt.NDArray[np.uint64], place: Places
) -> tuple[Places, Places]:
    """The rows whose pixels a row before them in the order has too, sorted, and the first such row."""
    order = np.lexsort((place[usable], raster[:, 1], raster[:, 0]))
    usable, raster = usable[order], raster[order]
    is_first = np.ones(len(usable), dtype=np.bool_)
    is_first[1:] = (raster[1:] != raster[:-1]).any(axis=1)
    survivors = usable[is_first][np.cumsum(is_first) - 1]
    copies, survivors = usable[~is_first], survivors[~is_first]
    by_key = np.argsort(copies)
    return copies[by_key], survivors[by_key]


def _take_any(numbers: NumberFile, places: Places) -> npt.NDArray[Any]:
    """The numbers at places in any order."""
    sorted_places, back = np.unique(places, return_inverse=True)
    return numbers.take(sorted_places)[back]
