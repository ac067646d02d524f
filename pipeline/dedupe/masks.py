"""Measure how many rows of a masked image came from the image prompt.

The samples of one caption in a `masked` section share the upper part, which the image prompt gave, and differ
below it. The shared part is measured as the upper rows that the images of a caption have in common, in 1/32
of the height (a row of image tokens). The ledger says which images are masked, not how far.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby, pairwise
from statistics import median_low

from pipeline.dedupe.inspection import BAND_BYTES, TOKEN_ROWS

# The value if nothing can be measured: `the exact same cat on the top … on the bottom`.
HALF = TOKEN_ROWS // 2


def measure_masks(images: Iterable[tuple[str, str, bytes]]) -> Mapping[tuple[str, str], int]:
    """The prompted token rows (1..32) for each (section, caption id).

    `images` are (section, caption id, bands) of masked images, sorted; see `hash_bands`.
    """
    groups = groupby(images, key=lambda image: image[:2])
    return {group: shared_rows({bands for _, _, bands in found}) for group, found in groups}


def shared_rows(bands: set[bytes]) -> int:
    """The token rows that different images share; half if there is nothing to compare."""
    ordered = sorted(bands)
    shared = [_common_start(a, b) for a, b in pairwise(ordered)]
    return (median_low(shared) if shared else 0) or HALF


def _common_start(first: bytes, second: bytes) -> int:
    for row in range(TOKEN_ROWS):
        part = slice(row * BAND_BYTES, (row + 1) * BAND_BYTES)
        if first[part] != second[part]:
            return row
    return TOKEN_ROWS
