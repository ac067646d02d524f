"""Drawn images of unfinished prompts, saved so that a kill does not lose them: there may be hundreds.

sketches/NNNN-IIIII.npz holds the pixels and the score of one image. They are written every minute and on an
interrupt, and removed once the prompt's best images are written.

Legend: H rows, W columns of pixels.
"""

from __future__ import annotations

import contextlib
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.storage import atomic_write
from pipeline.generate.prompts import Order

SKETCHES = "sketches"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A drawn image uint8 [H, W, 3], and its CLIP score, if any."""

    order: Order
    pixels_HWC: npt.NDArray[np.uint8]
    score: float | None = None


def write_sketches(folder: Path, images: Iterable[Drawn]) -> None:
    """Save images that are not saved yet; raises StorageError if writing fails."""
    for image in images:
        path = _path(folder, image.order)
        if not path.exists():
            score = math.nan if image.score is None else image.score
            with atomic_write(path) as file:
                np.savez_compressed(file, allow_pickle=False, pixels=image.pixels_HWC, score=score)


def read_sketches(folder: Path, orders: Sequence[Order]) -> list[Drawn]:
    """The saved images of `orders`, without damaged ones, which are drawn again."""
    found = (_read(_path(folder, order), order) for order in orders)
    return [image for image in found if image is not None]


def remove_sketches(folder: Path, orders: Iterable[Order]) -> None:
    """Delete the saved images of `orders`, and the folder if it is then empty."""
    for order in orders:
        _path(folder, order).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / SKETCHES).rmdir()


def _path(folder: Path, order: Order) -> Path:
    return folder / SKETCHES / f"{order.number:04d}-{order.index:05d}.npz"


def _read(path: Path, order: Order) -> Drawn | None:
    try:
        with np.load(path, allow_pickle=False) as saved:
            pixels_HWC, score = saved["pixels"], float(saved["score"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return None
    if pixels_HWC.dtype != np.uint8 or pixels_HWC.ndim != 3:
        return None
    return Drawn(order=order, pixels_HWC=pixels_HWC, score=None if math.isnan(score) else score)
