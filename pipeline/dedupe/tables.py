"""Write the stage's tables as streamed Parquet with zstd compression."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.core.contracts import INSPECTIONS, Column, FileEntry
from pipeline.core.integrity import find_fault
from pipeline.core.storage import (
    TABLE_OPTIONS,
    atomic_write,
    file_entry,
    has_checksums,
    table_schema,
)
from pipeline.dedupe.inspection import INSPECTION_VERSION, Inspection

log = logging.getLogger(__name__)

T = TypeVar("T")

ROWS_PER_FILE = 262_144
ROWS_PER_GROUP = 16_384
# Rows as Python objects take ten times the memory of columns, so only a few at a time.
ROWS_AT_ONCE = 1_024
_VERSION_KEY, _VERSION = b"inspection_version", b"%d" % INSPECTION_VERSION


class TableWriter:
    """Writes batches of rows to `folder/00000.parquet` and so on; use it in a `with`.

    There is always a first file, even if empty, so that readers find the schema.
    """

    def __init__(self, folder: Path, columns: tuple[Column, ...]) -> None:
        self._folder = folder
        self.schema = table_schema(columns)
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0
        self._files: list[tuple[Path, int]] = []
        self._open_file: ExitStack | None = None
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: Any
    ) -> None:
        if kind is None:
            self._flush(self._waiting)
            if not self._files:
                self._begin_file()
            self._end_file()
        elif self._open_file is not None:
            self._open_file.__exit__(kind, error, at)

    def add(self, rows: pa.RecordBatch) -> None:
        """Write rows that have the contract's columns."""
        self._batches.append(rows)
        self._waiting += len(rows)
        while self._waiting >= ROWS_PER_GROUP:
            self._flush(ROWS_PER_GROUP)

    def entries(self, root: Path) -> list[FileEntry]:
        """The finished files, for the manifest."""
        return [file_entry(path, root, rows) for path, rows in self._files]

    def _flush(self, rows: int) -> None:
        """Write the first pending rows as a row group."""
        if not rows:
            return
        table = pa.Table.from_batches(self._batches)
        self._batches = table.slice(rows).to_batches()
        self._waiting -= rows
        if self._writer is None:
            self._begin_file()
        assert self._writer is not None
        self._writer.write_table(table.slice(0, rows).combine_chunks(), ROWS_PER_GROUP)
        self._in_file += rows
        if self._in_file >= ROWS_PER_FILE:
            self._end_file()

    def _begin_file(self) -> None:
        path = self._folder / f"{len(self._files):05d}.parquet"
        self._files.append((path, 0))
        self._open_file = ExitStack()
        file = self._open_file.enter_context(atomic_write(path))
        self._writer = self._open_file.enter_context(_parquet(file, self.schema))

    def _end_file(self) -> None:
        if self._open_file is None:
            return
        self._open_file.close()
        self._files[-1] = (self._files[-1][0], self._in_file)
        self._open_file = self._writer = None
        self._in_file = 0


def write_table(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches of `ROWS_AT_ONCE` rows to one file and return the number of rows."""
    written = 0
    with atomic_write(path) as file, _parquet(file, schema) as writer:
        for group in in_chunks(batches, max(1, ROWS_PER_GROUP // ROWS_AT_ONCE)):
            table = pa.Table.from_batches(group).combine_chunks()
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            written += len(table)
    return written


def as_batches(rows: Iterable[Sequence[Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches of rows; values are in the order of the schema's columns."""
    for chunk in in_chunks(rows, ROWS_AT_ONCE):
        columns = zip(*chunk, strict=True)
        arrays = [as_array(c, field.type) for c, field in zip(columns, schema, strict=True)]
        yield pa.record_batch(arrays, schema=schema)


def as_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """A column of values as SQLite returns them: booleans as 0 and 1, large numbers signed."""
    if kind == pa.bool_():
        return pa.array([v if v is None else bool(v) for v in values], kind)
    if kind == pa.uint64():
        return pa.array([v if v is None else v % 2**64 for v in values], kind)
    return pa.array(values, kind)


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    read: Callable[[], list[T]] = lambda: list(islice(iterator, size))  # noqa: E731
    return iter(read, [])


def write_inspections(path: Path, inspections: Iterable[Inspection]) -> int:
    """Write `inspections.parquet` and return its number of rows."""
    schema = table_schema(INSPECTIONS, {_VERSION_KEY: _VERSION})
    return write_table(path, schema, as_batches(inspections, schema))


def read_old_inspections(path: Path, described: FileEntry | None) -> Iterator[list[Inspection]]:
    """Inspections of an earlier run, in batches; none if the file is missing, outdated or damaged.

    `described` is that run's manifest entry of the file. Without it the file's own checksums are checked.
    """
    if not path.exists() or (described is not None and find_fault(path.parent, described)):
        return
    try:
        # With buffering, the whole file would be in memory.
        file = pq.ParquetFile(path, pre_buffer=False, page_checksum_verification=True)
        with file:
            if _is_current(file.schema_arrow) and (described or has_checksums(file.schema_arrow)):
                for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
                    columns = [column.to_pylist() for column in batch.columns]
                    yield [Inspection._make(values) for values in zip(*columns, strict=True)]
    except FileNotFoundError:  # a first run
        return
    except (OSError, pa.ArrowException) as error:
        log.warning("%s can't be read (%s): its images are inspected again.", path, error)


def _is_current(schema: pa.Schema) -> bool:
    names = [column.name for column in INSPECTIONS]
    return schema.names == names and (schema.metadata or {}).get(_VERSION_KEY) == _VERSION


def _parquet(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, **TABLE_OPTIONS)
