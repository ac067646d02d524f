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

from pipeline.dedupe.rows import KEPT_CODE, Rows, reason_code

Indices = npt.NDArray[np.int64]


def order_survivors(table: npt.NDArray[Any]) -> Indices:
    """The place of each row in the survivor order, 0 the first."""
    order = np.lexsort((-table["pixels"], table["rank"]))  # stable: ties stay sorted by key
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    return place


def reject_exact_duplicates(rows: Rows, place: Indices) -> Indices:
    """Set the reason of rows whose pixels a better row has too.

    Returns for each row the index of the row that stands for it, its own for those that stay.
    """
    table = rows.table
    stands_for = np.arange(len(table))
    usable = np.flatnonzero(table["reason"] == KEPT_CODE)
    raster = table["raster"][usable]
    order = np.lexsort((place[usable], raster[:, 1], raster[:, 0]))
    usable, raster = usable[order], raster[order]
    is_first = np.ones(len(usable), dtype=np.bool_)
    is_first[1:] = (raster[1:] != raster[:-1]).any(axis=1)
    survivors = usable[is_first][np.cumsum(is_first) - 1] if len(usable) else usable
    stands_for[usable] = survivors
    same_file = (table["file"][usable] == table["file"][survivors]).all(axis=1)
    reasons = np.where(same_file, reason_code("duplicate_bytes"), reason_code("duplicate_pixels"))
    table["reason"][usable] = np.where(is_first, KEPT_CODE, reasons)
    return stands_for
