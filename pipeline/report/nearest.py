"""The training image that looks most like a generated one.

Comparing pixels with all training images would mean decoding them all. So the candidates are those with the
same caption and those with the closest mean colour, which the tables hold; only these are decoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from pipeline.core.image_decode import Pixels
from pipeline.report.samples import KEPT_COLUMNS
from pipeline.report.view import View

SIDE = 16
CANDIDATES = 96
_SAME_CAPTION = 32
_MEANS = ["mean_red", "mean_green", "mean_blue"]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """A training image: its row in `kept`, and its distance (root mean square, of 0..255)."""

    row: dict[str, Any]
    distance: float


def find_nearest(view: View, drawn: Sequence[tuple[str, Pixels]]) -> list[Nearest | None]:
    """The nearest training image of each (prompt, pixels); None if there is no candidate.

    The distance is that of thumbnails of 16×16 pixels, cropped to a square.
    """
    candidates = _find_candidates(view, drawn)
    rows = view.read_rows(
        "kept/", list(KEPT_COLUMNS), (at for places in candidates for at in places)
    )
    small = {at: _thumbnail(view.pixels(row)) for at, row in rows.items()}
    return [
        _closest(_thumbnail(pixels), {at: small[at] for at in places}, rows)
        for (_, pixels), places in zip(drawn, candidates, strict=True)
    ]


def _find_candidates(view: View, drawn: Sequence[tuple[str, Pixels]]) -> list[list[int]]:
    """Positions in `kept` of the candidates for each image: same caption, or close in mean colour."""
    same: list[list[int]] = [[] for _ in drawn]
    close = [np.empty((0, 2)) for _ in drawn]  # squared distance and position, closest first
    targets = [pixels.mean(axis=(0, 1)) for _, pixels in drawn]
    start = 0
    for batch in view.batches("kept/", ["caption", "split", *_MEANS]):
        means_NC = np.stack([batch[name].to_numpy() for name in _MEANS], axis=1)
        captions = batch["caption"].to_numpy(zero_copy_only=False)
        train = np.flatnonzero(batch["split"].to_numpy(zero_copy_only=False) == "train")
        for number, (prompt, _) in enumerate(drawn):
            found = train[captions[train] == prompt] + start
            same[number] += found[: _SAME_CAPTION - len(same[number])].tolist()
            squares = ((means_NC[train] - targets[number]) ** 2).sum(axis=1)
            both = np.concatenate([close[number], np.stack([squares, train + start], axis=1)])
            close[number] = both[np.argsort(both[:, 0], kind="stable")[:CANDIDATES]]
        start += len(batch)
    return [
        sorted({*first, *second[:, 1].astype(int).tolist()})
        for first, second in zip(same, close, strict=True)
    ]


def _closest(target: Floats, small: dict[int, Floats], rows: dict[int, Any]) -> Nearest | None:
    distances = {
        at: float(np.sqrt(((pixels - target) ** 2).mean())) for at, pixels in small.items()
    }
    if not distances:
        return None
    best = min(distances, key=lambda at: (distances[at], at))
    return Nearest(row=rows[best], distance=distances[best])


def _thumbnail(pixels_HWC: Pixels) -> Floats:
    small = ImageOps.fit(Image.fromarray(pixels_HWC), (SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)
