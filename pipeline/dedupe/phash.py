"""The perceptual hash of an image, and what else its 32×32 miniature tells.

The hash is the DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions" (2010), section 3.2, known as pHash: luminance, smoothed and shrunk to 32×32; its
two-dimensional DCT-II; the 8×8 coefficients of the lowest frequencies without the first row and
column (those hold the mean); a bit each, set where the coefficient exceeds the median of the 64.

Two things are pinned down so that every machine gets the same bits. The image is shrunk by area
means (Zauner: a 7×7 mean, then every eighth pixel). And all arithmetic is on integers: luminance
299 R + 587 G + 114 B (ITU-R BT.601), miniature cells in 1/256 of its 0..255 range, cosines rounded
to 1/4096; so an image of one colour has the hash 0, not noise.

Shapes: H height, W width, C = 3 channels, G = 32 cells along a side, K = 8 coefficients.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

GRID = 32
SIDE = 8
_LUMA = (299, 587, 114)
_COSINE_SCALE = 4096

Pixels = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


class Portrait(NamedTuple):
    """What the miniature tells of an image: 64-bit hash, mean colour (0..255), one colour or not."""

    phash: int
    mean: tuple[float, float, float]
    is_blank: bool


def portray(pixels_HWC: Pixels) -> Portrait:
    """Hash an RGB raster of any size ≥ 1×1 and take its mean colour."""
    height, width = pixels_HWC.shape[:2]
    cells_CGG = shrink(pixels_HWC)
    area = height * width
    sums = cells_CGG.reshape(3, -1).sum(axis=1).tolist()
    red, green, blue = (total / (GRID * GRID) / area for total in sums)
    luma_GG = _weigh(cells_CGG) * 256 // (1000 * area)
    phash = hash_luma(luma_GG)
    # One colour has the hash 0, so nearly every image is seen not to be blank for nothing.
    is_blank = phash == 0 and bool((pixels_HWC == pixels_HWC[0, 0]).all())
    return Portrait(phash, (red, green, blue), is_blank)


def hash_luma(luma_GG: Integers) -> int:
    """The 64 bits of a miniature, the lowest frequencies first (most significant)."""
    cosines_KG = _cosines()
    # Integers below 2**53 (65535 · 32² · 4096² is 2**50): floats hold them exactly, in any order of sums.
    coefficients = (cosines_KG @ luma_GG.astype(np.float64) @ cosines_KG.T).ravel()
    middle = np.partition(coefficients, (31, 32))[31:33]
    bits = np.packbits(2 * coefficients > middle.sum())
    return int.from_bytes(bits.tobytes(), "big")


def _weigh(cells_CGG: Integers) -> Integers:
    red_GG, green_GG, blue_GG = cells_CGG
    luma_GG: Integers = red_GG * _LUMA[0]
    luma_GG += green_GG * _LUMA[1]
    luma_GG += blue_GG * _LUMA[2]
    return luma_GG


def shrink(pixels_HWC: Pixels) -> Integers:
    """Sums over a 32×32 grid of cells, [C, G, G]; every cell counts H·W units of area.

    A pixel that lies in two cells counts in each by its share.
    """
    height, width, channels = pixels_HWC.shape
    if height % GRID == 0 and width % GRID == 0:
        return _shrink_evenly(pixels_HWC) * (GRID * GRID)
    rows_GH, columns_GW = _shares(height), _shares(width)
    rows = np.empty((GRID, width, channels), dtype=np.int64)
    for cell, shares_H in enumerate(rows_GH):
        touched = np.flatnonzero(shares_H)
        band = pixels_HWC[touched[0] : touched[-1] + 1]
        rows[cell] = np.tensordot(shares_H[touched], band.astype(np.int64), axes=1)
    cells: Integers = np.einsum("gw,rwc->crg", columns_GW, rows)
    return cells


def _shrink_evenly(pixels_HWC: Pixels) -> Integers:
    """`shrink` in units of a pixel, where whole pixels fall into cells."""
    height, width, channels = pixels_HWC.shape
    tall, wide = height // GRID, width // GRID
    bands = pixels_HWC.reshape(GRID, tall, width * channels)
    # numpy adds fastest along long rows of small numbers: cells last, 16 bits where they fit.
    narrow = np.uint16 if tall <= 256 else np.uint32
    sums = np.add.reduce(bands, axis=1, dtype=narrow).reshape(GRID * GRID, wide * channels)
    turned = np.ascontiguousarray(sums.T).reshape(wide, channels, GRID * GRID)
    cells: Integers = np.add.reduce(turned, axis=0, dtype=np.uint32).astype(np.int64)
    return cells.reshape(channels, GRID, GRID)


@functools.lru_cache(maxsize=16)
def _shares(length: int) -> Integers:
    """How much of each of `length` pixels lies in each of the 32 cells, [G, length], in 1/32."""
    edges = np.arange(GRID + 1) * length
    starts, ends = edges[:-1, None], edges[1:, None]
    pixels = np.arange(length) * GRID
    shares = np.minimum(ends, pixels + GRID) - np.maximum(starts, pixels)
    result: Integers = np.maximum(shares, 0).astype(np.int64)
    return result


@functools.cache
def _cosines() -> npt.NDArray[np.float64]:
    """DCT-II basis of the frequencies 1..8 over 32 cells, [K, G]."""
    frequency, cell = np.arange(1, SIDE + 1)[:, None], np.arange(GRID)
    cosines = np.cos((2 * cell + 1) * frequency * np.pi / (2 * GRID))
    rounded: npt.NDArray[np.float64] = np.rint(cosines * _COSINE_SCALE)
    return rounded
