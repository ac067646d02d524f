"""The kept images to encode: one row for the same pixels, in the order of their hashes.

Reads dedupe/kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ContractError
from pipeline.storage import read_manifest
from pipeline.workspace import Workspace

_COLUMNS = ["pixel_sha256", "key", "segment", "offset", "bytes"]


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """An image by its pixels, and where its bytes lie."""

    pixel_sha256: str
    key: str
    segment: str
    offset: int
    bytes: int


def read_kept(workspace: Workspace) -> dict[str, ImageRow]:
    """The kept images by pixel hash, sorted by it; of equal pixels the row with the first key.

    Raises ContractError where dedupe has not finished or a table can't be read.
    """
    rows: dict[str, ImageRow] = {}
    for entry in read_manifest(workspace.dedupe, "dedupe").files:
        if entry.path.startswith("kept/"):
            for row in _read_table(workspace.dedupe / entry.path):
                rows.setdefault(row.pixel_sha256, row)
    return dict(sorted(rows.items()))


def _read_table(path: Path) -> list[ImageRow]:
    try:
        rows = pq.read_table(path, columns=_COLUMNS).to_pylist()
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ContractError(
            f"{path} can't be read ({error}). Run `pipeline dedupe` again."
        ) from error
    return [ImageRow(**row) for row in rows]
