"""Parquet lists as batches, read in buffered streams: row groups of any size take little memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.list_files import ListFile
from scrapers.sources.urls.streams import open_bytes, reading

_ROWS = 16_384
_BUFFER_BYTES = 2**20


@dataclass(frozen=True, kw_only=True)
class ParquetList:
    """A Parquet file and its columns."""

    file: ListFile
    columns: tuple[str, ...]

    def batches(self, wanted: Sequence[str], faults: Faults) -> Iterator[pa.RecordBatch]:  # noqa: ARG002
        """The wanted columns with their types. Raises SourceError if the file can't be read."""
        with open_bytes(self.file) as raw, reading(self.file):
            parquet = pq.ParquetFile(raw, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            yield from parquet.iter_batches(_ROWS, columns=list(wanted), use_threads=False)


def open_parquet(file: ListFile) -> ParquetList:
    """A Parquet file with its columns. Raises SourceError if it isn't one."""
    with open_bytes(file) as raw, reading(file):
        return ParquetList(file=file, columns=tuple(pq.read_schema(raw).names))
