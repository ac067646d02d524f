"""The background for transparent images: one rule for all stages.

White, as on most pages. If more than half of what is visible is nearly white, such as a white logo, it would
vanish, so it is flattened over black instead. Each pixel counts by its opacity; nearly white means that all
three channels are at least 240. The background thus depends only on the image, and images without transparent
pixels are the same over either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from pipeline.core.image_decode.errors import Pixels

Background = Literal["white", "black"]
_NEARLY_WHITE = 240


def flatten(overlay: Image.Image) -> Image.Image:
    """Flatten an RGBA image over its background, as RGB."""
    background = choose_background(np.asarray(overlay))
    below = Image.new("RGBA", overlay.size, background)
    return Image.alpha_composite(below, overlay).convert("RGB")


def choose_background(rgba_HWC: Pixels) -> Background:
    """The background for an image of four channels."""
    alpha_HW = rgba_HWC[..., 3]
    visible = int(alpha_HW.sum(dtype=np.int64))
    is_white_HW = rgba_HWC[..., :3].min(axis=2) >= _NEARLY_WHITE
    white = int(alpha_HW[is_white_HW].sum(dtype=np.int64))
    return "black" if 2 * white > visible else "white"
