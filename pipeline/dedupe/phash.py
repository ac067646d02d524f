"""The perceptual hash of an image, and the other facts computed from its 32×32 miniature.

The hash is the DCT hash of Christoph Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions" (2010), section 3.2, known as pHash: smooth the luminance and shrink it to 32×32, take its
two-dimensional DCT-II, and of it the 8×8 coefficients of the lowest frequencies without the first row and
column (which hold the mean). Each yields a bit, set if the coefficient exceeds the median of the 64.

Two choices make every machine compute the same bits. The image is shrunk by area means (Zauner: a 7×7 mean,
then every eighth pixel). All arithmetic is on integers: luminance 299 R + 587 G + 114 B (ITU-R BT.601),
miniature cells in 1/256 of its 0..255 range, cosines rounded to 1/4096. So an image of one colour has the
hash 0, not noise.

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
    """The reduced form of a raster: sums over 32×32 cells (see `shrink`), area, and whether it is blank."""

    cells_CGG: Integers
    area: int
    is_blank: bool


class ImageStats(NamedTuple):
    """Facts computed from a miniature: 64-bit hash, mean colour (0..255), whether it has only one colour."""

    phash: int
    mean: tuple[float, float, float]
    is_blank: bool


def make_miniature(pixels_HWC: Pixels) -> Miniature:
    """Shrink an RGB raster of any size ≥ 1×1."""
    height, width = pixels_HWC.shape[:2]
    corner_C = pixels_HWC[0, 0]
    # The first row decides for nearly every image.
    is_blank = bool((pixels_HWC[0] == corner_C).all()) and bool((pixels_HWC == corner_C).all())
    return Miniature(shrink(pixels_HWC), height * width, is_blank)


def compute_stats(miniatures: Sequence[Miniature]) -> list[ImageStats]:
    """Hash images and compute their mean colours, many at once, since each takes little time."""
    if not miniatures:
        return []
    cells_NCGG = np.stack([miniature.cells_CGG for miniature in miniatures])
    area_N = np.array([miniature.area for miniature in miniatures])
    means_NC = cells_NCGG.sum(axis=(2, 3)) / (GRID * GRID) / area_N[:, None]
    luma_NGG = _weigh(cells_NCGG) * 256 // (1000 * area_N[:, None, None])
    hashes, means = hash_luma(luma_NGG).tolist(), means_NC.tolist()
    return [
        ImageStats(phash, tuple(mean), miniature.is_blank)
        for phash, mean, miniature in zip(hashes, means, miniatures, strict=True)
    ]


def hash_luma(luma_NGG: Integers) -> npt.NDArray[np.uint64]:
    """The 64-bit hash of each miniature, [N]; the lowest frequencies are the most significant bits."""
    cosines_KG = _cosines()
    # Integers below 2**53 (65535 · 32² · 4096² is 2**50): floats hold them exactly, in any summation order.
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
    """Sums over a 32×32 grid of cells, [C, G, G]; each cell covers H·W units of area.

    A pixel that overlaps two cells counts in each by its share.
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
    """`shrink` in units of whole pixels, if cells hold whole pixels only."""
    height, width, channels = pixels_HWC.shape
    tall, wide = height // GRID, width // GRID
    bands = pixels_HWC.reshape(GRID, tall, width * channels)
    # numpy adds fastest along long rows of small numbers: cells last, 16 bits where the sums fit.
    narrow = np.uint16 if tall <= 256 else np.uint32
    sums = np.add.reduce(bands, axis=1, dtype=narrow).reshape(GRID * GRID, wide * channels)
    turned = np.ascontiguousarray(sums.T).reshape(wide, channels, GRID * GRID)
    cells: Integers = np.add.reduce(turned, axis=0, dtype=np.uint32).astype(np.int64)
    return cells.reshape(channels, GRID, GRID)


@functools.lru_cache(maxsize=16)
def _shares(length: int) -> Integers:
    """The share of each of `length` pixels in each of the 32 cells, [G, length], in 1/32."""
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
