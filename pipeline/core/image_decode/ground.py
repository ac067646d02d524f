"""What lies behind transparency: the one rule for all stages.

White, as on most pages. But where more than half of what is visible is nearly white, it would vanish: a
white logo is then laid over black. Each pixel counts by its opacity; nearly white is one whose three
channels are all 240 or more. So the ground follows from the image alone, and an image without a
transparent pixel is the same on either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from PIL import Image

from pipeline.core.image_decode.errors import Pixels

Ground = Literal["white", "black"]
_NEARLY_WHITE = 240


def lay_over_ground(overlay: Image.Image) -> Image.Image:
    """An RGBA image over the ground that shows it, as RGB."""
    ground = choose_ground(np.asarray(overlay))
    below = Image.new("RGBA", overlay.size, ground)
    return Image.alpha_composite(below, overlay).convert("RGB")


def choose_ground(rgba_HWC: Pixels) -> Ground:
    """The ground for an image of four channels."""
    alpha_HW = rgba_HWC[..., 3]
    visible = int(alpha_HW.sum(dtype=np.int64))
    is_white_HW = rgba_HWC[..., :3].min(axis=2) >= _NEARLY_WHITE
    white = int(alpha_HW[is_white_HW].sum(dtype=np.int64))
    return "black" if 2 * white > visible else "white"
