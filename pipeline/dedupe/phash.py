"""The perceptual hash of an image, and what else its 32×32 miniature tells.

The hash is the DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions" (2010), section 3.2, known as pHash: luminance, smoothed and shrunk to 32×32; its
two-dimensional DCT-II; the 8×8 coefficients of the lowest frequencies without the first row and
column (those hold the mean); a bit each, set where the coefficient exceeds the median of the 64.

Two things are pinned down so that every machine gets the same bits. The image is shrunk by area
means (Zauner: a 7×7 mean, then every eighth pixel). And all arithmetic is on integers: luminance
299 R + 587 G + 114 B (ITU-R BT.601), miniature cells in 1/256 of its 0..255 range, cosines rounded
to 1/4096; so an image of one colour has the hash 0, not noise.

Shapes: N images, H height, W width, C = 3 channels, G = 32 cells along a side, K = 8 coefficients,
B = 64 bits.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

GRID = 32
SIDE = 8
_LUMA = (299, 587, 114)
_COSINE_SCALE = 4096

Pixels = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


class Miniature(NamedTuple):
    """What is kept of a raster to portray it: sums over 32×32 cells (see `shrink`), its pixels."""

    cells_CGG: Integers
    area: int
    is_blank: bool


class Portrait(NamedTuple):
    """What the miniature tells of an image: 64-bit hash, mean colour (0..255), one colour or not."""

    phash: int
    mean: tuple[float, float, float]
    is_blank: bool


def make_miniature(pixels_HWC: Pixels) -> Miniature:
    """Shrink an RGB raster of any size ≥ 1×1."""
    height, width = pixels_HWC.shape[:2]
    corner_C = pixels_HWC[0, 0]
    # The first row settles it for nearly every image.
    is_blank = bool((pixels_HWC[0] == corner_C).all()) and bool((pixels_HWC == corner_C).all())
    return Miniature(shrink(pixels_HWC), height * width, is_blank)


def portray(miniatures: Sequence[Miniature]) -> list[Portrait]:
    """Hash images and take their mean colours: many at once, for each costs little."""
    if not miniatures:
        return []
    cells_NCGG = np.stack([miniature.cells_CGG for miniature in miniatures])
    area_N = np.array([miniature.area for miniature in miniatures])
    means_NC = cells_NCGG.sum(axis=(2, 3)) / (GRID * GRID) / area_N[:, None]
    luma_NGG = _weigh(cells_NCGG) * 256 // (1000 * area_N[:, None, None])
    hashes, means = hash_luma(luma_NGG).tolist(), means_NC.tolist()
    return [
        Portrait(phash, tuple(mean), miniature.is_blank)
        for phash, mean, miniature in zip(hashes, means, miniatures, strict=True)
    ]


def hash_luma(luma_NGG: Integers) -> npt.NDArray[np.uint64]:
    """The 64 bits of each miniature, [N], the lowest frequencies first (most significant)."""
    cosines_KG = _cosines()
    # Integers below 2**53 (65535 · 32² · 4096² is 2**50): floats hold them exactly, in any order of sums.
    coefficients_NKK = cosines_KG @ luma_NGG.astype(np.float64) @ cosines_KG.T
    coefficients_NB = coefficients_NKK.reshape(len(luma_NGG), SIDE * SIDE)
    middle_N2 = np.partition(coefficients_NB, (31, 32), axis=1)[:, 31:33]
    bits_NB = 2 * coefficients_NB > middle_N2.sum(axis=1, keepdims=True)
    return np.packbits(bits_NB, axis=1).view(">u8")[:, 0].astype(np.uint64)


def _weigh(cells_NCGG: Integers) -> Integers:
    red, green, blue = (cells_NCGG[:, channel] for channel in range(3))
    luma_NGG: Integers = red * _LUMA[0]
    luma_NGG += green * _LUMA[1]
    luma_NGG += blue * _LUMA[2]
    return luma_NGG


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
