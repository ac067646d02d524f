"""The kept images that a codec learns from, decoded once into memory.

Reads dedupe/kept and raw/segments. Rows are taken by pixel hash, which is as good as a draw and does
not depend on the order in which a crawl brought them.

Legend: M images, H = W pixels, C = 3 colours.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts import Split
from pipeline.errors import ContractError
from pipeline.models.codecs.pixels import Pixels, read_square
from pipeline.raster import DecodeError
from pipeline.storage import read_manifest, read_slice
from pipeline.workspace import Workspace

log = logging.getLogger(__name__)

_COLUMNS = ["pixel_sha256", "segment", "offset", "bytes"]
_CHUNK = 128  # images between two words on progress


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Pixels uint8 [M, H, W, 3], and how many images could not be decoded."""

    pixels_MHWC: Pixels
    failed: int


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """Where the bytes of an image lie."""

    pixel_sha256: str
    segment: str
    offset: int
    bytes: int


def choose_rows(workspace: Workspace, split: Split, max_images: int) -> list[ImageRow]:
    """At most `max_images` different kept images of a split, by pixel hash.

    Raises ContractError where dedupe has not finished or its tables can't be read.
    """
    manifest = read_manifest(workspace.dedupe, "dedupe")
    names = [entry.path for entry in manifest.files if entry.path.startswith("kept/")]
    rows: dict[str, ImageRow] = {}
    for name in names:
        for row in _read_split(workspace.dedupe / name, split):
            rows.setdefault(row.pixel_sha256, row)
    return [rows[pixel_sha256] for pixel_sha256 in sorted(rows)[:max_images]]


def _read_split(path: Path, split: Split) -> list[ImageRow]:
    try:
        table = pq.read_table(path, columns=_COLUMNS, filters=[("split", "=", split)])
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ContractError(
            f"{path} can't be read ({error}). Run `pipeline dedupe` again."
        ) from error
    return [ImageRow(**row) for row in table.to_pylist()]


def load_images(
    segments: Path,
    rows: Sequence[ImageRow],
    *,
    side: int,
    workers: int | None = None,
    tell: Callable[[int], None] | None = None,
) -> ImageSet:
    """Decode `rows` to squares of `side` pixels in `workers` threads; `tell` hears how many are done.

    Images that can't be decoded are left out and counted. Raises ContractError where a segment is gone
    or too short.
    """
    pixels_MHWC = np.zeros((len(rows), side, side, 3), dtype=np.uint8)
    whole: npt.NDArray[np.bool_] = np.zeros(len(rows), dtype=np.bool_)

    def load(number: int) -> None:
        row = rows[number]
        data = read_slice(segments / row.segment, offset=row.offset, length=row.bytes)
        try:
            pixels_MHWC[number] = read_square(data, side)
            whole[number] = True
        except DecodeError as error:
            log.warning("Image %s can't be decoded: %s", row.pixel_sha256, error)

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as threads:
        for start in range(0, len(rows), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(rows)))
            list(threads.map(load, chunk))
            if tell is not None:
                tell(chunk.stop)
    failed = len(rows) - int(whole.sum())
    return ImageSet(pixels_MHWC=pixels_MHWC[whole] if failed else pixels_MHWC, failed=failed)
