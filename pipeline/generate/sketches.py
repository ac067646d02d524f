"""Images of a prompt that is not finished, on the disk: there may be hundreds, and a kill must not cost them.

sketches/NNNN-IIIII.npz holds the pixels and the score of a prompt's image that was drawn. They are written
every minute and when the stage is interrupted, and go when the prompt's best are there.

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
    """An image uint8 [H, W, 3], and what CLIP makes of it, if it was asked."""

    order: Order
    pixels_HWC: npt.NDArray[np.uint8]
    score: float | None = None


def write_sketches(folder: Path, images: Iterable[Drawn]) -> None:
    """Keep images that are not kept yet; raises StorageError where the disk refuses."""
    for image in images:
        path = _path(folder, image.order)
        if not path.exists():
            score = math.nan if image.score is None else image.score
            with atomic_write(path) as file:
                np.savez_compressed(file, allow_pickle=False, pixels=image.pixels_HWC, score=score)


def read_sketches(folder: Path, orders: Sequence[Order]) -> list[Drawn]:
    """The images of `orders` that are kept; damaged ones are drawn again."""
    found = (_read(_path(folder, order), order) for order in orders)
    return [image for image in found if image is not None]


def remove_sketches(folder: Path, orders: Iterable[Order]) -> None:
    """Forget what is kept of `orders`, and the folder if nothing is left in it."""
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
