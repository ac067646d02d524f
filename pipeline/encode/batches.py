"""Decode image bytes to pixels in threads, ahead of the codec.

Legend: B images of a batch, H = W pixels, C = 3 colours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.errors import DamageError
from pipeline.core.image_decode import DecodeError, decode_image, hash_pixels
from pipeline.core.kept_images import KeptImage, read_image
from pipeline.models.codecs.pixels import Pixels, cut_views

_AHEAD = 4  # decoded batches that may wait for the codec


@dataclass(frozen=True, kw_only=True)
class Task:
    """An image, and its views that have no codes yet."""

    image: KeptImage
    views: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that can't be decoded, or whose bytes differ from those dedupe saw, and the reason."""

    image: KeptImage
    detail: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decoded views uint8 [B, H, W, 3], the (image hash, view name) of each, and the failures."""

    images: int
    views: tuple[tuple[str, str], ...]
    pixels_BHWC: Pixels
    failures: tuple[Failure, ...]


def decode_batches(
    segments: Path,
    tasks: Sequence[Task],
    *,
    side: int,
    batch_size: int,
    threads: ThreadPoolExecutor,
) -> Iterator[Batch]:
    """Decode `tasks` in batches of `batch_size` images, in order, a few batches ahead of the consumer.

    Raises ContractError if a segment is missing.
    """
    waiting: deque[Future[Batch]] = deque()
    for start in range(0, len(tasks), batch_size):
        part = tasks[start : start + batch_size]
        waiting.append(threads.submit(_decode, segments, part, side))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode(segments: Path, tasks: Sequence[Task], side: int) -> Batch:
    pixels: list[Pixels] = [np.empty((0, side, side, 3), dtype=np.uint8)]
    views: list[tuple[str, str]] = []
    failures: list[Failure] = []
    for task in tasks:
        image = task.image
        try:
            pixels_HWC = _inspected_pixels(segments, image)
            pixels.append(cut_views(pixels_HWC, side, task.views))
        except (DamageError, DecodeError) as error:
            failures.append(Failure(image=image, detail=str(error)))
        else:
            views += [(image.pixel_sha256, view) for view in task.views]
    return Batch(
        images=len(tasks) - len(failures),
        views=tuple(views),
        pixels_BHWC=np.concatenate(pixels),
        failures=tuple(failures),
    )


def _inspected_pixels(segments: Path, image: KeptImage) -> Pixels:
    """The raster of an image, which has the hash that its codes are kept by.

    Raises DecodeError where it is another one: decoders change, and the tables may be older than this one.
    """
    pixels_HWC = decode_image(read_image(segments, image.place)).pixels_HWC
    if hash_pixels(pixels_HWC) != image.pixel_sha256:
        raise DecodeError(
            "its pixels differ from those that were inspected: a decoder has a different version. Run "
            "`pipeline dedupe` again"
        )
    return pixels_HWC
