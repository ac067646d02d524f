"""Decode image bytes to pixels in threads, ahead of the codec.

Legend: B images of a batch, H = W pixels, C = 3 colours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.engine import count_cores
from pipeline.core.errors import DamageError
from pipeline.core.image_decode import DecodeError, decode_image, hash_pixels
from pipeline.core.kept_images import KeptImage, read_image
from pipeline.models.codecs.pixels import Pixels, cut_views

_PIECE = 16  # images that a thread decodes at once: a batch is then spread over all cores
_AHEAD = 4  # decoded batches that may wait for the codec
_AHEAD_EACH = 2  # pieces that may wait for each core, if that is more


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
    """Decode `tasks` in batches of `batch_size` images, in order, ahead of the consumer.

    Raises ContractError if a segment is missing.
    """
    return decode_parts(segments, [tasks], side=side, batch_size=batch_size, threads=threads)


def decode_parts(
    segments: Path,
    parts: Iterable[Sequence[Task]],
    *,
    side: int,
    batch_size: int,
    threads: ThreadPoolExecutor,
) -> Iterator[Batch]:
    """The batches of several parts, one after another; no batch has images of two parts.

    A batch is decoded in pieces by several threads, and the next part's while the last one's are encoded.
    Raises ContractError if a segment is missing.
    """
    ahead = max(_AHEAD * batch_size, _AHEAD_EACH * _PIECE * count_cores())
    waiting: deque[tuple[int, list[Future[Batch]]]] = deque()
    images = 0
    for tasks in _cut(parts, batch_size):
        pieces = [
            threads.submit(decode_piece, segments, tasks[start : start + _PIECE], side)
            for start in range(0, len(tasks), _PIECE)
        ]
        waiting.append((len(tasks), pieces))
        images += len(tasks)
        while images > ahead:
            count, pieces = waiting.popleft()
            images -= count
            yield _join([piece.result() for piece in pieces])
    while waiting:
        yield _join([piece.result() for piece in waiting.popleft()[1]])


def _cut(parts: Iterable[Sequence[Task]], batch_size: int) -> Iterator[Sequence[Task]]:
    for part in parts:
        for start in range(0, len(part), batch_size):
            yield part[start : start + batch_size]


def _join(pieces: Sequence[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    return Batch(
        images=sum(piece.images for piece in pieces),
        views=tuple(view for piece in pieces for view in piece.views),
        pixels_BHWC=np.concatenate([piece.pixels_BHWC for piece in pieces]),
        failures=tuple(failure for piece in pieces for failure in piece.failures),
    )


def decode_piece(segments: Path, tasks: Sequence[Task], side: int) -> Batch:
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
