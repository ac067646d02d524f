"""Whether a part of an image that was decoded is missing in its file: `looks_cut`."""

from __future__ import annotations

import numpy as np

from pipeline.core.image_decode.decode import decode_image
from pipeline.core.image_decode.errors import DecodeError, Pixels
from pipeline.core.image_decode.jpeg import is_baseline, uses_huffman_codes, with_end, with_more

# Blocks have this side, and twice this side where colours have half the resolution; these are smoothed
# over a pixel beyond their blocks.
_BLOCK, _SMOOTHED = 8, 2


def looks_cut(data: bytes, pixels_HWC: Pixels) -> bool:
    """Whether the data of a JPEG end before its image does; `pixels_HWC` is its raster.

    Of other formats a decoder refuses what is cut. Most whole images are known without a second decoding:
    the last block of a cut one is of one colour, wherever it was turned to, if it is a baseline JPEG.
    """
    if not uses_huffman_codes(data):
        return False
    if is_baseline(data) and not _has_flat_corner(pixels_HWC):
        return False
    try:
        again = decode_image(with_more(with_end(data)))
    except DecodeError:
        return True
    return not np.array_equal(again.pixels_HWC, pixels_HWC)


def _has_flat_corner(pixels_HWC: Pixels) -> bool:
    side = min(_seen_of_last_block(length) for length in pixels_HWC.shape[:2])
    corners = (
        pixels_HWC[:side, :side],
        pixels_HWC[:side, -side:],
        pixels_HWC[-side:, :side],
        pixels_HWC[-side:, -side:],
    )
    return any(bool((corner == corner[0, 0]).all()) for corner in corners)


def _seen_of_last_block(length: int) -> int:
    """Pixels of the last block of a row that are within the image and all its own, of either size."""
    fine, coarse = ((length - 1) % side + 1 for side in (_BLOCK, 2 * _BLOCK))
    return max(1, min(fine, coarse - _SMOOTHED))
