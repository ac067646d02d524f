"""The kept images that a codec is trained on, decoded once into memory.

They are chosen by pixel hash, which amounts to a random choice and does not depend on the order of the
crawl.

Legend: M images, H = W pixels, C = 3 colours.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import Split
from pipeline.core.engine import count_cores
from pipeline.core.image_decode import DecodeError
from pipeline.core.kept_images import KeptImage, read_image, read_kept
from pipeline.core.workspace import Workspace
from pipeline.models.codecs.pixels import Pixels, read_square

log = logging.getLogger(__name__)

_CHUNK = 128  # images between progress reports


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Pixels uint8 [M, H, W, 3], and the number of images that could not be decoded."""

    pixels_MHWC: Pixels
    failed: int


def choose_images(workspace: Workspace, split: Split, max_images: int) -> list[KeptImage]:
    """At most `max_images` distinct kept images of a split, chosen by pixel hash.

    Raises ContractError if dedupe has not finished, DamageError if its tables can't be read.
    """
    return list(read_kept(workspace, split).values())[:max_images]


def load_images(
    segments: Path,
    images: Sequence[KeptImage],
    *,
    side: int,
    workers: int | None = None,
    report: Callable[[int], None] | None = None,
) -> ImageSet:
    """Decode images to squares of `side` pixels in `workers` threads; `report` gets the number done.

    Images that can't be decoded are left out and counted. Raises ContractError if a segment is missing,
    DamageError if it is damaged: a codec is trained only once, so the damage has to be repaired first.
    """
    pixels_MHWC = np.zeros((len(images), side, side, 3), dtype=np.uint8)
    whole: npt.NDArray[np.bool_] = np.zeros(len(images), dtype=np.bool_)

    def load(number: int) -> None:
        image = images[number]
        data = read_image(segments, image.place)
        try:
            pixels_MHWC[number] = read_square(data, side)
            whole[number] = True
        except DecodeError as error:
            log.warning("Image %s can't be decoded: %s", image.pixel_sha256, error)

    with ThreadPoolExecutor(workers or count_cores()) as threads:
        for start in range(0, len(images), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(images)))
            list(threads.map(load, chunk))
            if report is not None:
                report(chunk.stop)
    failed = len(images) - int(whole.sum())
    return ImageSet(pixels_MHWC=pixels_MHWC[whole] if failed else pixels_MHWC, failed=failed)
