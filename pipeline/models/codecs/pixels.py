"""Preprocessing: from an image file to the square of pixels that a codec reads, and back.

The preprocessing affects the codes as much as the weights do, so it is a single function with a name that
manifests record.

Legend: B images, C = 3 colours, H = W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

# Names what `read_square` does, for manifests; raise the number when its pixels change.
PREPROCESSING = "rgb, shorter side to image_size (Pillow bicubic), centre crop, [0, 1]; 2"
_ZOOM = 1.1  # scale of the image that corner crops are taken from
_CORNERS = ("top_left", "top_right", "bottom_left", "bottom_right")
_MIRRORED = "_flip"
# The crops of an image for each value of `--views`.
VIEWS: Mapping[str, tuple[str, ...]] = {
    "center": ("center",),
    "flip": ("center", "flip"),
    "ten-crop": (
        *("center", "flip"),
        *(corner + mirrored for corner in _CORNERS for mirrored in ("", _MIRRORED)),
    ),
}

Pixels = npt.NDArray[np.uint8]


def read_square(data: bytes, side: int) -> Pixels:
    """Decode an image file to uint8 [side, side, 3]: shorter side resized to `side`, centre crop.

    It decodes with `image_decode.decode_image`, like dedupe. Raises DecodeError.
    """
    from pipeline.core.image_decode import decode_image  # the rest here needs no decoder

    return square_pixels(Image.fromarray(decode_image(data).pixels_HWC), side)


def cut_views(pixels_HWC: Pixels, side: int, views: Sequence[str]) -> Pixels:
    """The views of an image's raster, uint8 [views, side, side, 3].

    `center` is what `read_square` gives; a corner is one of the whole image with its shorter side at 1.1
    times `side`; `flip` and `…_flip` are mirror images.
    """
    image = Image.fromarray(pixels_HWC)
    return np.stack([_view(image, side, view) for view in views])


def _view(image: Image.Image, side: int, view: str) -> Pixels:
    name = "center" if view == "flip" else view.removesuffix(_MIRRORED)
    pixels = square_pixels(image, side) if name == "center" else _corner(image, side, name)
    return pixels[:, ::-1] if view.endswith("flip") else pixels


def _corner(image: Image.Image, side: int, name: str) -> Pixels:
    zoom = _ZOOM * side / min(image.size)
    width, height = (max(side, round(length * zoom)) for length in image.size)
    left = 0 if name.endswith("left") else width - side
    top = 0 if name.startswith("top") else height - side
    zoomed = image.resize((width, height), Image.Resampling.BICUBIC)
    return np.array(zoomed.crop((left, top, left + side, top + side)))


def square_pixels(image: Image.Image, side: int) -> Pixels:
    """The centre of an RGB image as uint8 [side, side, 3], its shorter side resized to `side`."""
    shorter = min(image.size)
    left, top = ((length - shorter) // 2 for length in image.size)
    box = (left, top, left + shorter, top + shorter)
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.array(image)


def to_images(pixels_BHWC: Pixels, device: torch.device | str = "cpu") -> Tensor:
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in [0, 1], in channels_last layout."""
    batch_BHWC = torch.from_numpy(pixels_BHWC)
    if torch.device(device).type == "cuda":  # copied asynchronously from pinned memory
        batch_BHWC = batch_BHWC.pin_memory()
    images_BCHW = batch_BHWC.to(device, non_blocking=True).permute(0, 3, 1, 2)
    return images_BCHW.to(torch.float32) / 255


def to_pixels(images_BCHW: Tensor) -> Pixels:
    """float [B, 3, H, W] in [0, 1] → uint8 [B, H, W, 3], rounded."""
    rounded = (images_BCHW.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return np.ascontiguousarray(rounded.permute(0, 2, 3, 1).cpu().numpy())
