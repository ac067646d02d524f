"""Read the tables of `codes/<codec>-<fingerprint>/` in batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.kept_images import read_tables

_BATCH_ROWS = 4096


def find_views(tables: tuple[Path, ...]) -> tuple[str, ...]:
    """The views in the tables of codes: `center` first, the others by name."""
    found = {
        view for table in tables for rows in read_batches(table, ["view"]) for view in _names(rows)
    }
    return tuple(sorted(found, key=lambda view: (view != "center", view))) or ("center",)


def _names(rows: pa.RecordBatch) -> list[str]:
    names: list[str] = pc.unique(rows["view"]).to_pylist()
    return names


def read_batches(table: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a table, in batches.

    Raises DamageError that names the table if it can't be read or lacks a column.
    """
    return read_tables([table], columns, _BATCH_ROWS)
