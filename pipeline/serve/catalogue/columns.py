"""Read the tables of dedupe into compact columns, one at a time, so that a million rows take about 150 MB.

Rows are numbered: kept images first, in the order of their keys, then rejected ones. Texts that repeat
(captions, sections, segments) are numbered too.

Legend: R rows, C distinct captions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.contracts import REJECT_REASONS, SPLITS
from pipeline.core.kept_images import dedupe_tables, read_image_tables
from pipeline.core.workspace import Workspace

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

NONE = -1  # in place of null
_ROWS = 65_536
_HEX = np.zeros(256, np.uint8)
for _number, _letter in enumerate(b"0123456789abcdef"):
    _HEX[_letter] = _number


@dataclass(frozen=True, kw_only=True)
class Names:
    """Numbered texts."""

    values: tuple[str, ...]

    def number(self, name: str) -> int | None:
        """The number of a text, None if it is none of them."""
        return self.values.index(name) if name in self.values else None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """The columns, each of R values; `NONE` where a row has none.

    `caption_R` numbers the texts of `captions`; `more_rows`, `more_captions` pair rows with their further
    captions. `leader_R` is the row of the leader of a row's cluster of near duplicates.
    """

    kept: int
    keys: pa.Array
    captions: pa.Array
    caption_R: Ints
    more_rows: Ints
    more_captions: Ints
    section_R: Ints
    sections: Names
    split_R: npt.NDArray[np.int8]
    reason_R: npt.NDArray[np.int8]
    rank_R: Ints
    width_R: Ints
    height_R: Ints
    bytes_R: Longs
    offset_R: Longs
    segment_R: Ints
    segments: Names
    sha256_R32: Bytes
    leader_R: Ints

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.keys)


class Tables:
    """The tables of dedupe, each compared with its hash when this is made.

    Raises ContractError if dedupe has not finished, DamageError for a table that was changed.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.kept = dedupe_tables(workspace, "kept/")
        self.rejected = dedupe_tables(workspace, "rejected/")

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of the kept rows, then of the rejected ones."""
        parts = [*self._read(self.kept, name), *self._read(self.rejected, name)]
        return pa.chunked_array(parts) if parts else pa.chunked_array([pa.nulls(0, pa.string())])

    def of_kept(self, name: str) -> pa.ChunkedArray:
        """A column of the kept rows alone."""
        return _chunked(self._read(self.kept, name))

    def of_rejected(self, name: str) -> pa.ChunkedArray:
        """A column of the rejected rows alone."""
        return _chunked(self._read(self.rejected, name))

    @staticmethod
    def _read(tables: Sequence[Path], name: str) -> list[pa.Array]:
        return [batch.column(0) for batch in read_image_tables(tables, [name], _ROWS)]


def _chunked(parts: list[pa.Array]) -> pa.ChunkedArray:
    return pa.chunked_array(parts) if parts else pa.chunked_array([pa.nulls(0, pa.string())])


def read_columns(workspace: Workspace) -> Columns:
    """Read everything that pages of many images need.

    Raises ContractError if dedupe has not finished, DamageError for a table that was changed.
    """
    tables = Tables(workspace)
    keys = _strings(tables.column("key"))
    kept = len(tables.of_kept("split"))
    captions, caption_R, more_rows, more_captions = read_captions(tables)
    section_R, sections = _numbered(tables.column("section"))
    segment_R, segments = _numbered(tables.column("segment"))
    return Columns(
        kept=kept,
        keys=keys,
        captions=captions,
        caption_R=caption_R,
        more_rows=more_rows,
        more_captions=more_captions,
        section_R=section_R,
        sections=sections,
        split_R=_closed_set(tables.of_kept("split"), SPLITS, before=0, rows=len(keys)),
        reason_R=_closed_set(
            tables.of_rejected("reason"), REJECT_REASONS, before=kept, rows=len(keys)
        ),
        rank_R=_ints(tables.column("rank")),
        width_R=_padded(_ints(tables.of_kept("width")), len(keys)),
        height_R=_padded(_ints(tables.of_kept("height")), len(keys)),
        bytes_R=_ints(tables.column("bytes"), np.int64),
        offset_R=_ints(tables.column("offset"), np.int64),
        segment_R=segment_R,
        segments=segments,
        sha256_R32=_hashes(tables.column("bytes_sha256")),
        leader_R=_leaders(tables, keys.slice(0, kept)),
    )


def read_captions(tables: Tables) -> tuple[pa.Array, Ints, Ints, Ints]:
    """The distinct captions, the number of each row's first, and the pairs of rows and further captions.

    The order of the distinct captions depends on the tables alone: the search index is made from it.
    """
    first = _strings(tables.column("caption"))
    lists = tables.column("captions")
    lengths = _ints(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)
    row_of = np.repeat(np.arange(len(first), dtype=np.int32), lengths)
    further = _strings(pc.list_flatten(lists))
    both = pa.concat_arrays([first, further]).dictionary_encode()
    numbers = both.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    caption_R, listed = numbers[: len(first)], numbers[len(first) :]
    is_more = listed != caption_R[row_of]
    return both.dictionary, caption_R, row_of[is_more], listed[is_more]


def _strings(column: pa.ChunkedArray) -> pa.Array:
    filled = pc.fill_null(column.cast(pa.string()), "")
    return pa.concat_arrays(filled.chunks) if filled.num_chunks else pa.array([], pa.string())


def _numbered(column: pa.ChunkedArray) -> tuple[Ints, Names]:
    encoded = _strings(column).dictionary_encode()
    numbers = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)
    return numbers, Names(values=tuple(encoded.dictionary.to_pylist()))


def _ints(column: Any, kind: Any = np.int32) -> Any:
    filled = pc.fill_null(column.cast(pa.int64()), NONE)
    return filled.to_numpy().astype(kind)


def _padded(values: Ints, rows: int) -> Ints:
    return np.concatenate((values, np.full(rows - len(values), NONE, np.int32)))


def _closed_set(
    column: pa.ChunkedArray, names: Sequence[str], *, before: int, rows: int
) -> npt.NDArray[np.int8]:
    """The numbers of names of a closed set, preceded and followed by NONE."""
    numbers = np.full(rows, NONE, np.int8)
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(names))
    numbers[before : before + len(column)] = _ints(found, np.int8)
    return numbers


def _hashes(column: pa.ChunkedArray) -> Bytes:
    """64 hex digits each, as 32 bytes each; zeros where a row has no file."""
    text = _strings(column)
    good = pc.if_else(pc.equal(pc.binary_length(text), 64), text, "0" * 64)
    digits = "".join(good.to_pylist()).encode("ascii", "replace")
    halves = _HEX[np.frombuffer(digits, np.uint8)].reshape(-1, 2)
    packed: Bytes = ((halves[:, 0] << 4) | halves[:, 1]).astype(np.uint8)
    return packed.reshape(-1, 32)


def _leaders(tables: Tables, kept_keys: pa.Array) -> Ints:
    """The row of each row's cluster leader; a rejected duplicate is in the cluster of what stands for it."""
    leader_K = _ints(pc.index_in(_strings(tables.of_kept("cluster")), value_set=kept_keys))
    own_K = np.arange(len(leader_K), dtype=np.int32)
    leader_K = np.where(leader_K == NONE, own_K, leader_K)
    stands_for = pc.index_in(
        tables.of_rejected("stands_for").cast(pa.string()), value_set=kept_keys
    )
    stand_J = _ints(stands_for)
    has = stand_J != NONE
    leader_J = np.full(len(stand_J), NONE, np.int32)
    leader_J[has] = leader_K[stand_J[has]]
    return np.concatenate((leader_K, leader_J)).astype(np.int32)
