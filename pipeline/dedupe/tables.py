"""Write the tables of the stage: parquet, zstd, in row groups that stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.contracts import INSPECTIONS, Column, FileEntry
from pipeline.dedupe.inspection import INSPECTION_VERSION, Inspection
from pipeline.dedupe.rows import in_chunks
from pipeline.storage import arrow_schema, atomic_write, file_entry

ROWS_PER_FILE = 262_144
ROWS_PER_GROUP = 16_384
# Rows as Python objects take ten times the memory of columns: few at a time.
ROWS_AT_ONCE = 1_024
_VERSION_KEY = b"inspection_version"


class TableWriter:
    """Rows, one after another, into `folder/00000.parquet` and so on; use it in a `with`.

    There is always a first file, if need be without rows, so that readers find the schema.
    """

    def __init__(self, folder: Path, columns: tuple[Column, ...]) -> None:
        self._folder = folder
        self._schema = arrow_schema(columns)
        self._rows: list[Mapping[str, Any]] = []
        self._batches: list[pa.RecordBatch] = []
        self._files: list[tuple[Path, int]] = []
        self._open_file: ExitStack | None = None
        self._writer: pq.ParquetWriter | None = None
        self._in_file = 0
        self.written = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: Any
    ) -> None:
        if kind is None:
            self._flush()
            if not self._files:
                self._begin_file()
            self._end_file()
        elif self._open_file is not None:
            self._open_file.__exit__(kind, error, at)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row: a value for each column of the contract; other names are left out."""
        self._rows.append(row)
        self.written += 1
        if len(self._rows) >= min(ROWS_AT_ONCE, ROWS_PER_GROUP):
            self._pack()
            if sum(len(batch) for batch in self._batches) >= ROWS_PER_GROUP:
                self._flush()

    def entries(self, root: Path) -> list[FileEntry]:
        """The finished files, for the manifest."""
        return [file_entry(path, root, rows) for path, rows in self._files]

    def _pack(self) -> None:
        self._batches.append(pa.RecordBatch.from_pylist(self._rows, schema=self._schema))
        self._rows.clear()

    def _flush(self) -> None:
        self._pack()
        table = pa.Table.from_batches(self._batches).combine_chunks()
        self._batches.clear()
        if not len(table):
            return
        if self._writer is None:
            self._begin_file()
        assert self._writer is not None
        self._writer.write_table(table, row_group_size=ROWS_PER_GROUP)
        self._in_file += len(table)
        if self._in_file >= ROWS_PER_FILE:
            self._end_file()

    def _begin_file(self) -> None:
        path = self._folder / f"{len(self._files):05d}.parquet"
        self._files.append((path, 0))
        self._open_file = ExitStack()
        file = self._open_file.enter_context(atomic_write(path))
        self._writer = self._open_file.enter_context(_parquet(file, self._schema))

    def _end_file(self) -> None:
        if self._open_file is None:
            return
        self._open_file.close()
        self._files[-1] = (self._files[-1][0], self._in_file)
        self._open_file = self._writer = None
        self._in_file = 0


def write_table(path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one file of rows and return how many there were."""
    written = 0
    few = (pa.RecordBatch.from_pylist(c, schema=schema) for c in in_chunks(rows, ROWS_AT_ONCE))
    with atomic_write(path) as file, _parquet(file, schema) as writer:
        for batches in in_chunks(few, ROWS_PER_GROUP // ROWS_AT_ONCE):
            table = pa.Table.from_batches(batches).combine_chunks()
            writer.write_table(table, row_group_size=ROWS_PER_GROUP)
            written += len(table)
    return written


def write_inspections(path: Path, inspections: Iterable[Inspection]) -> int:
    """Write `inspections.parquet` and return its rows."""
    names = [column.name for column in INSPECTIONS]
    schema = arrow_schema(INSPECTIONS).with_metadata({_VERSION_KEY: b"%d" % INSPECTION_VERSION})
    rows = (dict(zip(names, inspection, strict=True)) for inspection in inspections)
    return write_table(path, schema, ({**r, **_as_booleans(r)} for r in rows))


def read_old_inspections(path: Path) -> Iterator[list[Inspection]]:
    """Inspections of an earlier run in batches; none where they are missing, old or damaged."""
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid):
        return
    with file:
        metadata = file.schema_arrow.metadata or {}
        if metadata.get(_VERSION_KEY) != b"%d" % INSPECTION_VERSION:
            return
        for batch in file.iter_batches(batch_size=ROWS_AT_ONCE):
            columns = [column.to_pylist() for column in batch.columns]
            yield [Inspection._make(values) for values in zip(*columns, strict=True)]


def _parquet(file: IO[bytes], schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="zstd")


def _as_booleans(row: Mapping[str, Any]) -> dict[str, bool]:
    """SQLite has no booleans."""
    return {name: bool(row[name]) for name in ("has_alpha", "is_blank") if row[name] is not None}
