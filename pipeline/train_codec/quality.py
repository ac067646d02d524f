"""Measure a finished codec: PSNR, codebook usage, and an image of originals and reconstructions.

Legend: M images, B images of a batch, C colours, H W pixels, N codes of an image.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import Pixels, to_images, to_pixels
from pipeline.models.codecs.reconstruct import psnr

_BATCH = 64
_COLUMNS = 10
_PAIRS = 20


@dataclass(frozen=True, kw_only=True)
class Quality:
    """A codec's quality on some images.

    `psnr_db`: mean over images, of 8-bit pixels; `codebook_used`: number of entries used; `perplexity`: of
    the entries' frequencies, the size of an evenly used codebook.
    """

    psnr_db: float
    codebook_used: int
    perplexity: float


def measure_codec(codec: Codec, pixels_MHWC: Pixels, device: torch.device) -> Quality:
    """Encode and decode `pixels_MHWC` uint8 [M, H, W, 3] and compare."""
    counts_K = torch.zeros(codec.num_tokens, dtype=torch.int64)
    psnr_M: list[float] = []
    for start in range(0, len(pixels_MHWC), _BATCH):
        batch_BHWC = pixels_MHWC[start : start + _BATCH]
        codes_BN = codec.encode(to_images(batch_BHWC, device))
        counts_K += torch.bincount(codes_BN.flatten().cpu(), minlength=codec.num_tokens)
        psnr_M += psnr(batch_BHWC, to_pixels(codec.decode(codes_BN)))
    return Quality(
        psnr_db=round(float(np.mean(psnr_M)), 3),
        codebook_used=int((counts_K > 0).sum()),
        perplexity=round(perplexity(counts_K), 2),
    )


def perplexity(counts_K: Tensor) -> float:
    """exp of the entropy of the frequencies."""
    share_K = counts_K[counts_K > 0].double() / counts_K.sum()
    return float(torch.exp(-(share_K * share_K.log()).sum()))


def draw_reconstructions(codec: Codec, pixels_MHWC: Pixels, device: torch.device) -> bytes:
    """A PNG with rows of originals, each above its reconstruction."""
    chosen = np.linspace(0, len(pixels_MHWC) - 1, min(_PAIRS, len(pixels_MHWC))).astype(int)
    originals = pixels_MHWC[chosen]
    decoded = to_pixels(codec.decode(codec.encode(to_images(originals, device))))
    rows = []
    for start in range(0, len(originals), _COLUMNS):
        rows += [
            _row(originals[start : start + _COLUMNS]),
            _row(decoded[start : start + _COLUMNS]),
        ]
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(padded, axis=0)).save(buffer, "PNG")
    return buffer.getvalue()


def _row(images: Pixels) -> Pixels:
    return np.concatenate(list(images), axis=1)
