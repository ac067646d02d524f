"""The kept images of a workspace: their rows, and the only place that reads their bytes.

Reads dedupe/kept, and the bytes in raw/segments or in the files that `scrape` has indexed where they are.
Every image is compared with its hash whenever it is read, so the image that was inspected is the one that is
encoded, trained on and shown. That adds 6 % to decoding: 0.014 ms for a PNG of 28 kB that takes 0.23 ms to
decode, and 0.052 ms for one of 107 kB that takes 0.81 ms.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.core.captions import usable_captions
from pipeline.core.contracts import Split
from pipeline.core.errors import REPAIR, ContractError, damaged
from pipeline.core.integrity import checked_files
from pipeline.core.original_files import is_original, read_original
from pipeline.core.ownership import path_inside
from pipeline.core.storage import read_manifest, sha256_bytes
from pipeline.core.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


class StoredImage(NamedTuple):
    """The location of an image's bytes, and their hash: these columns of `kept`.

    `segment` is a segment of the raw store, or a file outside the workspace: see `original_files`.
    """

    segment: str
    offset: int
    bytes: int
    bytes_sha256: str


STORED_IMAGE_COLUMNS = StoredImage._fields
# The columns of `kept` and `rejected` that came with version 2 of the tables.
_ADDED = frozenset({"captions", "extra"})


def stored_image(row: Mapping[str, Any]) -> StoredImage:
    """The location in a row of `kept`."""
    return StoredImage(*(row[name] for name in STORED_IMAGE_COLUMNS))


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptImage:
    """A kept image, identified by its pixels."""

    pixel_sha256: str
    key: str
    place: StoredImage


def read_image(segments: Path, place: StoredImage) -> bytes:
    """The bytes of an image, after comparing them with their hash.

    Raises DamageError if the bytes differ, ContractError if the segment is missing; for a file outside the
    workspace ContractError in both cases.
    """
    if is_original(place.segment):
        return read_original(place.segment, place.offset, place.bytes, place.bytes_sha256)
    name = f"{segments.parent.name}/{segments.name}/{place.segment}"
    try:
        with _segment_path(segments, place.segment).open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), place.bytes, place.offset)
    except OSError as error:
        raise ContractError(
            f"{name} can't be read ({error.strerror}). Restore this segment. {REPAIR}"
        ) from error
    if len(data) != place.bytes or sha256_bytes(data) != place.bytes_sha256:
        raise damaged(
            f"{name} does not match the tables: its {place.bytes} bytes at {place.offset} don't have the "
            f"hash {str(place.bytes_sha256)[:12]}…."
        )
    return data


@functools.lru_cache(maxsize=4096)
def _segment_path(segments: Path, segment: str) -> Path:
    return path_inside(segments, segment, source="dedupe/kept")


def dedupe_tables(workspace: Workspace, prefix: str) -> tuple[Path, ...]:
    """The tables of dedupe whose paths begin with `prefix`, each compared with its hash.

    Raises ContractError if dedupe has not finished, DamageError for a table that was changed.
    """
    files = read_manifest(workspace.dedupe, "dedupe").files
    return checked_files(workspace.dedupe, (e for e in files if e.path.startswith(prefix)))


def kept_tables(workspace: Workspace) -> tuple[Path, ...]:
    """The tables of the kept images; see `dedupe_tables`."""
    return dedupe_tables(workspace, "kept/")


def read_tables(
    tables: Sequence[Path], columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows of tables in batches of at most `rows`.

    Raises DamageError that names the table if it can't be read or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for path in tables:
        try:
            # With buffering, the whole table would be in memory.
            with pq.ParquetFile(path, pre_buffer=False) as file:
                _ = [file.schema_arrow.field(name) for name in columns]
                yield from file.iter_batches(rows, columns=list(columns))
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            raise damaged(f"{path} can't be read ({error}).") from error


def read_image_tables(
    tables: Sequence[Path], columns: Sequence[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """`read_tables` for `kept` and `rejected`; tables of version 1 get the columns that came with version 2.

    Their rows have one caption, so `captions` holds it if it can be used; `extra` is null.
    """
    for path in tables:
        lacking = _lacking_columns(path, columns)
        there = [name for name in columns if name not in lacking]
        if "captions" in lacking and "caption" not in there:
            there.append("caption")
        for batch in read_tables([path], there, rows):
            yield _with_columns(batch, columns) if lacking else batch


def _lacking_columns(path: Path, columns: Sequence[str]) -> frozenset[str]:
    """Which of `columns` came with version 2 and are not in this table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return _ADDED.intersection(columns) - set(pq.read_schema(path).names)
    except (OSError, ValueError, pa.ArrowException):
        return frozenset()  # `read_tables` says what is wrong with it


def _with_columns(batch: pa.RecordBatch, columns: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    arrays = {name: batch[name] for name in batch.schema.names}
    arrays["extra"] = arrays.get("extra", pa.nulls(len(batch), pa.string()))
    if "captions" not in arrays:
        texts = batch["caption"].to_pylist() if "caption" in arrays else []
        usable = [[each.caption for each in usable_captions([text])] for text in texts]
        arrays["captions"] = pa.array(usable, pa.list_(pa.string()))
    return pa.record_batch([arrays[name] for name in columns], names=list(columns))


def read_kept(workspace: Workspace, split: Split | None = None) -> dict[str, KeptImage]:
    """The kept images (of a split) by pixel hash, sorted; of equal pixels the row with the first key.

    Raises ContractError if dedupe has not finished, DamageError for a table that can't be read.
    """
    columns = ("pixel_sha256", "key", "split", *STORED_IMAGE_COLUMNS)
    images: dict[str, KeptImage] = {}
    for batch in read_tables(kept_tables(workspace), columns, 16_384):
        for row in batch.to_pylist():
            if split in (None, row["split"]):
                place = stored_image(row | {"segment": sys.intern(row["segment"])})
                image = KeptImage(pixel_sha256=row["pixel_sha256"], key=row["key"], place=place)
                images.setdefault(image.pixel_sha256, image)
    return dict(sorted(images.items()))
