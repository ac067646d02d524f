"""Whether a part of an image that was decoded is missing in its file: `looks_cut`."""

from __future__ import annotations

import numpy as np

from pipeline.raster.decode import decode_image
from pipeline.raster.errors import DecodeError, Pixels
from pipeline.raster.jpeg import uses_huffman_codes, with_end, with_more

_SCAN = b"\xff\xda"
_BLOCK = 8


def looks_cut(data: bytes, pixels_HWC: Pixels) -> bool:
    """Whether the data of a JPEG end before its image does; `pixels_HWC` is its raster.

    Of other formats a decoder refuses what is cut. Most whole images are known without a second decoding:
    the last block of a cut one is of one colour, wherever it was turned to, unless it has several scans.
    """
    if not uses_huffman_codes(data):
        return False
    if data.count(_SCAN) == 1 and not _has_flat_corner(pixels_HWC):
        return False
    try:
        again = decode_image(with_more(with_end(data)))
    except DecodeError:
        return True
    return not np.array_equal(again.pixels_HWC, pixels_HWC)


def _has_flat_corner(pixels_HWC: Pixels) -> bool:
    height, width = pixels_HWC.shape[:2]
    # Of a block at the edge a part may be outside of the image.
    side = min((height - 1) % _BLOCK + 1, (width - 1) % _BLOCK + 1)
    corners = (
        pixels_HWC[:side, :side],
        pixels_HWC[:side, -side:],
        pixels_HWC[-side:, :side],
        pixels_HWC[-side:, -side:],
    )
    return any(bool((corner == corner[0, 0]).all()) for corner in corners)
