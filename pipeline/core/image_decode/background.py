"""The background for transparent images: one rule for all stages.

White, as on most pages, unless the drawing would vanish there, as a white logo does: then black. It would
vanish if most of what is visible is nearly white, and most of its contour is too. The second condition keeps
white drawings with a dark outline on white, since the outline would vanish on black. Each pixel counts by its
opacity; nearly white means that all three channels are at least 240. The background thus depends only on the
image, and images without transparent pixels are the same over either.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
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
    is_white_HW = rgba_HWC[..., :3].min(axis=2) >= _NEARLY_WHITE
    if not _mostly(is_white_HW, alpha_HW):
        return "white"
    return "black" if _mostly(is_white_HW, alpha_HW * _find_contour(alpha_HW)) else "white"


def _mostly(is_white_HW: npt.NDArray[np.bool_], opacity_HW: Pixels) -> bool:
    """Whether nearly white pixels have more than half of the opacity."""
    white = int(opacity_HW[is_white_HW].sum(dtype=np.int64))
    return 2 * white > int(opacity_HW.sum(dtype=np.int64))


def _find_contour(alpha_HW: Pixels) -> npt.NDArray[np.bool_]:
    """The pixels of the shape beside those outside it; beyond the edges, everything is outside.

    The shape is what has at least half of the largest opacity, so that soft edges don't count.
    """
    shape_HW = alpha_HW >= int(alpha_HW.max()) / 2
    padded = np.pad(shape_HW, 1)
    beside = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    contour_HW: npt.NDArray[np.bool_] = shape_HW & ~np.logical_and.reduce(beside)
    return contour_HW
