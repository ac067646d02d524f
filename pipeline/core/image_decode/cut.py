"""Detect decoded images whose file lacks a part of the data: `looks_cut`."""

from __future__ import annotations

import numpy as np

from pipeline.core.image_decode.decode import decode_image
from pipeline.core.image_decode.errors import DecodeError, Pixels
from pipeline.core.image_decode.jpeg import is_baseline, uses_huffman_codes, with_end, with_more

# Blocks have this side, or twice this side for colours at half resolution; the latter are smoothed over a
# pixel beyond their blocks.
_BLOCK, _SMOOTHED = 8, 2


def looks_cut(data: bytes, pixels_HWC: Pixels) -> bool:
    """Whether the data of a JPEG end before its image does; `pixels_HWC` is its raster.

    Decoders refuse truncated files of other formats. Most complete images are recognised without decoding
    them again: in a truncated baseline JPEG the last block has one colour, wherever rotation moved it. So a
    baseline JPEG with an end marker that lacks only data of its last block passes as complete; without the
    marker, `decode_image` refuses it.
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
    """Pixels of a row's last block that are inside the image and unsmoothed, for either block size."""
    fine, coarse = ((length - 1) % side + 1 for side in (_BLOCK, 2 * _BLOCK))
    return max(1, min(fine, coarse - _SMOOTHED))
