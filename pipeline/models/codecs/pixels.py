"""From an image file to the square of pixels that a codec reads, and back.

Floor 3. The road to pixels decides the codes as much as the weights do, so it is one function and has
a name, which manifests record.

Legend: B pictures, C = 3 colours, H = W pixels.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from pipeline.raster import decode_image

# What `read_square` does, for manifests; raise the number when its pixels change.
PREPROCESSING = "rgb, shorter side to image_size (Pillow bicubic), centre crop, [0, 1]; 2"

Pixels = npt.NDArray[np.uint8]


def read_square(data: bytes, side: int) -> Pixels:
    """Decode an image file to uint8 [side, side, 3]: the shorter side resized to `side`, the middle cut.

    The pixels are those of `raster.decode_image`, which dedupe hashed. Raises DecodeError.
    """
    return square_pixels(Image.fromarray(decode_image(data).pixels_HWC), side)


def square_pixels(image: Image.Image, side: int) -> Pixels:
    """The centre of an RGB image as uint8 [side, side, 3], its shorter side resized to `side`."""
    shorter = min(image.size)
    left, top = ((length - shorter) // 2 for length in image.size)
    box = (left, top, left + shorter, top + shorter)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.array(image)


def to_images(pixels_BHWC: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """Float32 [B, 3, H, W] in [0, 1] of uint8 [B, H, W, 3]; in channels_last layout, as it lies."""
    images_BCHW = torch.from_numpy(pixels_BHWC).to(device).permute(0, 3, 1, 2)
    return images_BCHW.to(torch.float32) / 255


def to_pixels(images_BCHW: Tensor) -> Pixels:
    """uint8 [B, H, W, 3] of float [B, 3, H, W] in [0, 1], rounded."""
    rounded = (images_BCHW.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())
