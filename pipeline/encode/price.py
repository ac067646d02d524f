"""What lower precision costs, measured: how many codes change, and what that does to the pictures.

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
class Price:
    """Against fp32 on `images` images: the share of codes that are others, and the PSNR lost in dB."""

    images: int
    changed_codes: float
    psnr_loss_db: float

    def __str__(self) -> str:
        return (
            f"changes {self.changed_codes:.2%} of the codes and costs {self.psnr_loss_db:.3f} dB of PSNR "
            f"(measured on {self.images} images)"
        )


def lower_precision(codec: Codec, precision: Precision, pixels_BHWC: Pixels) -> Price:
    """Let the codec encode in `precision` from now on, and say what that costs on these images."""
    if not len(pixels_BHWC):
        use_precision(codec, precision)
        return Price(images=0, changed_codes=0.0, psnr_loss_db=0.0)
    images_BCHW = to_images(pixels_BHWC, codec.device)
    use_precision(codec, "fp32")
    exact_BN = _encode(codec, images_BCHW)
    exact_db = _quality(codec, exact_BN, pixels_BHWC)
    use_precision(codec, precision)
    codes_BN = _encode(codec, images_BCHW)
    # The pictures are compared as fp32 decodes them: only codes are kept, and anyone may decode them.
    loss_db = exact_db - _quality(codec, codes_BN, pixels_BHWC)
    changed = (codes_BN != exact_BN).float().mean().item()
    return Price(
        images=len(pixels_BHWC), changed_codes=round(changed, 5), psnr_loss_db=round(loss_db, 4)
    )


def _encode(codec: Codec, images_BCHW: Tensor) -> Tensor:
    """One image at a time, so that there is room for it."""
    return torch.cat([codec.encode(image_1CHW) for image_1CHW in images_BCHW.split(1)])


def _quality(codec: Codec, codes_BN: Tensor, pixels_BHWC: Pixels) -> float:
    """Mean PSNR of the decoded codes in dB."""
    decoded = [to_pixels(codec.decode(codes_1N)) for codes_1N in codes_BN.split(1)]
    return float(np.mean(psnr(pixels_BHWC, np.concatenate(decoded))))
