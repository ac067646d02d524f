"""The shards of an output folder: the rows of each, and where the bytes of its images are.

`NNNNN.parquet` has a row for every URL, also for those that failed. The images are in `NNNNN.tar`, in the
folder `NNNNN/`, or in a column of that table. `NNNNN_stats.json` is written last.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.original_files import stat_original
from scrapers.source import FilePlace
from scrapers.sources.remarks import Remarks
from scrapers.sources.tars.expanding import Tar
from scrapers.sources.tars.members import EndsEarlyError, read_members

_SHARD = re.compile(r"(\d+)(\.parquet|\.tar|_stats\.json)?")
_IMAGES = ("jpg", "jpeg", "png", "webp")
_ROWS_AT_ONCE = 256


class Row(NamedTuple):
    """A row: its columns, and its image, if it has one, in a file or as bytes."""

    columns: Mapping[str, Any]
    place: FilePlace | None
    body: bytes | None


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A finished shard."""

    folder: Path
    name: str

    @property
    def table(self) -> Path:
        """The table of its rows."""
        return self.folder / f"{self.name}.parquet"


def find_shards(folder: Path, remarks: Remarks) -> list[Shard]:
    """The finished shards, sorted; unfinished ones are noted."""
    parts: dict[str, set[str]] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if (found := _SHARD.fullmatch(entry.name)) is not None:
                parts.setdefault(found[1], set()).add(found[2] or "/")
    finished = []
    for name in sorted(parts):
        if {".parquet", "_stats.json"} <= parts[name]:
            finished.append(Shard(folder=folder, name=name))
        else:
            missing = "_stats.json" if "_stats.json" not in parts[name] else ".parquet"
            remarks.note(
                "Unfinished shards, which are left out", f"{name} (there is no {name}{missing})"
            )
    return finished


def read_rows(shard: Shard, remarks: Remarks) -> Iterator[Row]:
    """The rows of a shard. Raises OSError and ValueError for a table that can't be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    state = stat_original(str(shard.table))
    places = _places(shard, remarks)
    number = 0
    with pq.ParquetFile(shard.table) as file:
        schema = file.schema_arrow
        column = next(
            (n for n in _IMAGES if n in schema.names and pa.types.is_binary(schema.field(n).type)),
            None,
        )
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                body = row.pop(column) if column is not None else None
                if column is None:
                    yield Row(row, places.get(str(row.get("key"))), None)
                elif body is None:
                    yield Row(row, None, None)
                else:
                    place = FilePlace(str(shard.table), number, len(body), *state)
                    yield Row(row, place, body)
                number += 1


def _places(shard: Shard, remarks: Remarks) -> dict[str, FilePlace]:
    """Where the images of a shard are, by key."""
    tar, folder = shard.folder / f"{shard.name}.tar", shard.folder / shard.name
    if tar.exists():
        return _in_tar(tar, remarks)
    return _in_folder(folder) if folder.is_dir() else {}


def _in_tar(tar: Path, remarks: Remarks) -> dict[str, FilePlace]:
    places = {}
    try:
        for member in read_members(Tar(str(tar), tar.name, "")):
            key, _, suffix = member.name.rpartition(".")
            if suffix in _IMAGES:
                places[key] = member.place
    except EndsEarlyError as error:
        remarks.note("Tars that end early", f"{tar} ({error})")
    return places


def _in_folder(folder: Path) -> dict[str, FilePlace]:
    places = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            key, _, suffix = entry.name.rpartition(".")
            if suffix in _IMAGES and entry.is_file():
                found = entry.stat()
                size = found.st_size
                places[key] = FilePlace(entry.path, 0, size, size, found.st_mtime_ns)
    return places
