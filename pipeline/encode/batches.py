"""Image bytes → pixels, in threads, ahead of the codec.

Legend: B images of a batch, H = W pixels, C = 3 colours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.encode.rows import ImageRow
from pipeline.models.codecs.pixels import Pixels, read_square
from pipeline.raster import DecodeError
from pipeline.storage import read_slice

_AHEAD = 4  # batches that may wait for the codec


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An image that could not be decoded, and why."""

    row: ImageRow
    detail: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Decoded images uint8 [B, H, W, 3] with their rows, and those that failed."""

    rows: tuple[ImageRow, ...]
    pixels_BHWC: Pixels
    failures: tuple[Failure, ...]


def decode_batches(
    segments: Path,
    rows: Sequence[ImageRow],
    *,
    side: int,
    batch_size: int,
    threads: ThreadPoolExecutor,
) -> Iterator[Batch]:
    """Decode `rows` in batches of `batch_size`, in order, a few batches ahead of the consumer.

    Raises ContractError where a segment is gone or too short.
    """
    waiting: deque[Future[Batch]] = deque()
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        waiting.append(threads.submit(_decode, segments, part, side))
        if len(waiting) > _AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _decode(segments: Path, rows: Sequence[ImageRow], side: int) -> Batch:
    pixels_BHWC = np.empty((len(rows), side, side, 3), dtype=np.uint8)
    whole: list[ImageRow] = []
    failures: list[Failure] = []
    for row in rows:
        data = read_slice(segments / row.segment, offset=row.offset, length=row.bytes)
        try:
            pixels_BHWC[len(whole)] = read_square(data, side)
            whole.append(row)
        except DecodeError as error:
            failures.append(Failure(row=row, detail=str(error)))
    return Batch(rows=tuple(whole), pixels_BHWC=pixels_BHWC[: len(whole)], failures=tuple(failures))
