"""Reconstruct images from codes, and measure the error.

Legend: B images, H W pixels, N codes of an image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from pipeline.models.codecs.base import Codec
from pipeline.models.codecs.pixels import Pixels, to_pixels


def reconstruct(codec: Codec, codes_BN: npt.NDArray[np.integer]) -> Pixels:
    """Decode codes to images uint8 [B, H, W, 3], on the codec's device.

    Raises ModelError for a number of codes that doesn't match its grid, or codes outside its codebook.
    """
    device = codec.device
    codes = torch.from_numpy(codes_BN.astype(np.int64)).to(device)
    with torch.inference_mode():
        return to_pixels(codec.decode(codes))


def psnr(original_BHWC: Pixels, decoded_BHWC: Pixels) -> list[float]:
    """Peak signal-to-noise ratio of each image in dB, capped at 60 (identical images would be infinite)."""
    error_BHWC = original_BHWC.astype(np.float64) - decoded_BHWC.astype(np.float64)
    mean_squares_B = np.square(error_BHWC).mean(axis=(1, 2, 3))
    return [min(60.0, 10 * float(np.log10(255**2 / max(mean, 1e-9)))) for mean in mean_squares_B]
