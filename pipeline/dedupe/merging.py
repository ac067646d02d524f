"""`--merge-captions`: the row that represents exact duplicates gets their captions.

Memory: some 40 bytes for each duplicate, and the text of each caption that is new to its row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.column_file import Positions32
from pipeline.dedupe.rows import Rows, reason_code

_EXACT = (reason_code("duplicate_bytes"), reason_code("duplicate_pixels"))
Pairs = npt.NDArray[np.int64]


def find_gained(rows: Rows, stands_for: Positions32, caption: Positions32, further: Pairs) -> Pairs:
    """Rows and the captions that they gain from exact duplicates [pairs, 2], sorted.

    `caption` is the number of each row's first caption, `further` lists rows and the numbers of their others.
    """
    is_copy = np.isin(rows.reason, _EXACT)
    copies = np.flatnonzero(is_copy)
    of_copies = further[is_copy[further[:, 0]]]
    given = np.concatenate(
        [
            np.stack([stands_for[copies], caption[copies]], axis=1),
            np.stack([stands_for[of_copies[:, 0]], of_copies[:, 1]], axis=1),
        ]
    ).astype(np.int64)
    given = given[given[:, 1] != caption[given[:, 0]]]
    base = np.int64(2**32)  # more than there are captions
    new = np.setdiff1d(given @ np.array([base, 1]), further @ np.array([base, 1]))
    return np.stack([new // base, new % base], axis=1)


def read_gained(rows: Rows, stands_for: Positions32, gained: Pairs) -> Mapping[int, Sequence[str]]:
    """For each row in `gained` the captions of its duplicates, by the duplicates' keys."""
    gains = np.zeros(len(rows), dtype=np.bool_)
    gains[gained[:, 0]] = True
    gains = gains[stands_for] & np.isin(rows.reason, _EXACT)
    found: dict[int, list[str]] = {}
    start = 0
    for batch in rows.images():
        for place in np.flatnonzero(gains[start : start + len(batch)]).tolist():
            row = int(stands_for[start + place])
            found.setdefault(row, []).extend(batch["captions"][place].as_py())
        start += len(batch)
    return found
