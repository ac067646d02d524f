"""Measure the cost of lower precision: how many codes change, and the loss of image quality.

Legend: B images, H = W pixels, C = 3 colours, N codes of an image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import Pixels, to_images, to_pixels
from pipeline.models.codecs.precision import Precision, use_precision
from pipeline.models.codecs.reconstruct import psnr

MEASURED_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class PrecisionCost:
    """Compared to fp32, on `images` images: the share of changed codes, and the loss of PSNR in dB."""

    images: int
    changed_codes: float
    psnr_loss_db: float

    def __str__(self) -> str:
        return (
            f"changes {self.changed_codes:.2%} of the codes and costs {self.psnr_loss_db:.3f} dB of PSNR "
            f"(measured on {self.images} images)"
        )


def switch_precision(codec: Codec, precision: Precision, pixels_BHWC: Pixels) -> PrecisionCost:
    """Switch the codec to `precision`, and measure the cost on these images."""
    if not len(pixels_BHWC):
        use_precision(codec, precision)
        return PrecisionCost(images=0, changed_codes=0.0, psnr_loss_db=0.0)
    images_BCHW = to_images(pixels_BHWC, codec.device)
    use_precision(codec, "fp32")
    exact_BN = _encode(codec, images_BCHW)
    exact_db = _quality(codec, exact_BN, pixels_BHWC)
    use_precision(codec, precision)
    codes_BN = _encode(codec, images_BCHW)
    # Both are decoded in fp32: only codes are stored, and they may be decoded in any precision.
    loss_db = exact_db - _quality(codec, codes_BN, pixels_BHWC)
    changed = (codes_BN != exact_BN).float().mean().item()
    return PrecisionCost(
        images=len(pixels_BHWC), changed_codes=round(changed, 5), psnr_loss_db=round(loss_db, 4)
    )


def _encode(codec: Codec, images_BCHW: Tensor) -> Tensor:
    """Encode one image at a time to save memory."""
    return torch.cat([codec.encode(image_1CHW) for image_1CHW in images_BCHW.split(1)])


def _quality(codec: Codec, codes_BN: Tensor, pixels_BHWC: Pixels) -> float:
    """Mean PSNR of the decoded codes in dB."""
    decoded = [to_pixels(codec.decode(codes_1N)) for codes_1N in codes_BN.split(1)]
    return float(np.mean(psnr(pixels_BHWC, np.concatenate(decoded))))
