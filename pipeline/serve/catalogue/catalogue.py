"""One state of the images of a workspace: queries for pages, clusters, single samples.

Legend: R rows, N rows of a result.
"""

from __future__ import annotations

import bisect
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.core.contracts import REJECT_REASONS, SPLITS
from pipeline.core.errors import ContractError
from pipeline.core.kept_images import StoredImage, read_image
from pipeline.core.workspace import Workspace
from pipeline.serve.catalogue.columns import NONE, Ints, Tables, read_columns
from pipeline.serve.catalogue.searching import Search

State = Literal["kept", "rejected", "all"]
Sort = Literal["key", "caption", "rank", "size", "bytes", "cluster"]
STATES: tuple[str, ...] = get_args(State)
SORTS: tuple[str, ...] = get_args(Sort)
CACHED_ROWS = 16_000_000  # row numbers of cached results: 64 MB


class Query(NamedTuple):
    """What a page of images shows; None and "" mean all."""

    text: str = ""
    state: str = "kept"
    section: str = ""
    split: str = ""
    reason: str = ""
    sort: str = "key"
    descending: bool = False


class Entry(NamedTuple):
    """What a page shows of a row; `place` is None if it has no file."""

    row: int
    key: str
    caption: str
    section: str
    split: str | None
    reason: str | None
    rank: int | None
    width: int | None
    height: int | None
    bytes: int | None
    place: StoredImage | None


class Catalogue:
    """The images of one state of dedupe, named by its `digest`; safe to use from several threads.

    Raises ContractError if dedupe has not finished, DamageError for a table that was changed.
    """

    def __init__(self, workspace: Workspace, *, digest: str, index: Path) -> None:
        self._workspace, self.digest = workspace, digest
        self.tables = Tables(workspace)
        self.columns = columns = read_columns(workspace)
        self.search = Search(columns.captions, index)
        self._lock = threading.Lock()
        self._orders: dict[str, Ints] = {}
        self._results: OrderedDict[Query, Ints] = OrderedDict()
        self._first_rejected = columns.kept
        self._by_leader: tuple[Ints, Ints] | None = None
        self._by_caption: tuple[Ints, Ints] | None = None

    # --- Pages of many images --------------------------------------------------------------------

    def select(self, query: Query) -> Ints:
        """The rows of a query in their order, int32 [N]; results are cached."""
        with self._lock:
            cached = self._results.get(query)
            if cached is not None:
                self._results.move_to_end(query)
                return cached
        rows = self._select(query)
        with self._lock:
            # Results while the index is missing are not the final ones.
            if not query.text or self.search.is_indexed:
                self._results[query] = rows
            while sum(map(len, self._results.values())) > CACHED_ROWS and len(self._results) > 1:
                self._results.popitem(last=False)
        return rows

    def cached(self, query: Query) -> Ints | None:
        """The rows of a query if they are cached."""
        return self._results.get(query)

    def _select(self, query: Query) -> Ints:
        wanted = self._filter(query)
        if query.text.strip():
            found = np.zeros(self.columns.rows, bool)
            found[self._rows_of_captions(self.search.find(query.text))] = True
            wanted &= found
        order = self.order(query.sort)
        rows: Ints = order[wanted[order]]
        return rows[::-1] if query.descending else rows

    def _filter(self, query: Query) -> Any:
        columns = self.columns
        wanted = np.ones(columns.rows, bool)
        if query.state == "kept":
            wanted[columns.kept :] = False
        elif query.state == "rejected":
            wanted[: columns.kept] = False
        if query.section:
            wanted &= columns.section_R == columns.sections.number(query.section)
        if query.split:
            wanted &= columns.split_R == _number(query.split, SPLITS)
        if query.reason:
            wanted &= columns.reason_R == _number(query.reason, REJECT_REASONS)
        return wanted

    def order(self, sort: str) -> Ints:
        """All rows in an order, int32 [R]; ties in the order of the rows. Computed once."""
        order = self._orders.get(sort)
        if order is None:
            order = self._orders[sort] = self._make_order(sort)
        return order

    def _make_order(self, sort: str) -> Ints:
        columns, values = self.columns, np.empty(0, np.int64)
        if sort == "key":
            return np.arange(columns.rows, dtype=np.int32)
        if sort == "caption":
            by_text = pc.sort_indices(columns.captions).to_numpy()
            place_C = np.empty(len(by_text), np.int32)
            place_C[by_text] = np.arange(len(by_text), dtype=np.int32)
            values = place_C[columns.caption_R].astype(np.int64)
        elif sort == "rank":
            last = np.int64(np.iinfo(np.int32).max)
            values = np.where(columns.rank_R == NONE, last, columns.rank_R)
        elif sort == "size":
            values = columns.width_R.astype(np.int64) * columns.height_R
        elif sort == "bytes":
            values = columns.bytes_R
        else:
            sizes = self.cluster_sizes()
            values = np.where(
                columns.leader_R == NONE, 0, sizes[np.maximum(columns.leader_R, 0)]
            ) * np.int64(columns.rows + 1) - np.maximum(columns.leader_R, 0)
        return np.argsort(values, kind="stable").astype(np.int32)

    def _rows_of_captions(self, captions: Ints) -> Ints:
        """The rows that have one of these captions, the first or a further one."""
        starts, rows = self._caption_rows()
        return (
            np.concatenate(
                [rows[starts[c] : starts[c + 1]] for c in captions.tolist()]
                if len(captions) < 1000
                else [rows[np.repeat(_is_in(captions, len(starts) - 1), np.diff(starts))]]
            )
            if len(captions)
            else np.empty(0, np.int32)
        )

    def _caption_rows(self) -> tuple[Ints, Ints]:
        if self._by_caption is None:
            columns = self.columns
            rows = np.concatenate((np.arange(columns.rows, dtype=np.int32), columns.more_rows))
            groups = np.concatenate((columns.caption_R, columns.more_captions))
            self._by_caption = _grouped(groups, rows, len(columns.captions))
        return self._by_caption

    # --- Entries ---------------------------------------------------------------------------------

    def entries(self, rows: Ints) -> list[Entry]:
        """What a page shows of rows, read together: one by one, the columns take three times as long."""
        columns = self.columns
        texts = columns.captions.take(pa.array(columns.caption_R[rows])).to_pylist()
        return [
            Entry(
                row=row,
                key=key,
                caption=text,
                section=columns.sections.values[section],
                split=None if split == NONE else SPLITS[split],
                reason=None if reason == NONE else REJECT_REASONS[reason],
                rank=_value(rank),
                width=_value(width),
                height=_value(height),
                bytes=_value(size),
                place=place,
            )
            for row, key, text, section, split, reason, rank, width, height, size, place in zip(
                rows.tolist(),
                columns.keys.take(pa.array(rows)).to_pylist(),
                texts,
                columns.section_R[rows].tolist(),
                columns.split_R[rows].tolist(),
                columns.reason_R[rows].tolist(),
                columns.rank_R[rows].tolist(),
                columns.width_R[rows].tolist(),
                columns.height_R[rows].tolist(),
                columns.bytes_R[rows].tolist(),
                self.places(rows),
                strict=True,
            )
        ]

    def entry(self, row: int) -> Entry:
        """What a page shows of one row."""
        return self.entries(np.array([row], np.int32))[0]

    def places(self, rows: Ints) -> list[StoredImage | None]:
        """Where the bytes of rows lie, None for those that have none."""
        columns, hexes = self.columns, self.columns.sha256_R32[rows].tobytes().hex()
        return [
            StoredImage(columns.segments.values[segment], offset, size, hexes[at : at + 64])
            if columns.segments.values[segment] and offset != NONE
            else None
            for at, segment, offset, size in zip(
                range(0, len(hexes), 64),
                columns.segment_R[rows].tolist(),
                columns.offset_R[rows].tolist(),
                columns.bytes_R[rows].tolist(),
                strict=True,
            )
        ]

    def place(self, row: int) -> StoredImage | None:
        """Where the bytes of a row lie, None if it has none."""
        return self.places(np.array([row], np.int32))[0]

    def read(self, place: StoredImage) -> bytes:
        """The bytes of an image. Raises ContractError or DamageError if they are not there any more."""
        return read_image(self._workspace.segments, place)

    def row_of(self, key: str) -> int | None:
        """The row with this key; both tables are sorted by it."""
        keys, kept = self.columns.keys, self.columns.kept
        for low, high in ((0, kept), (kept, len(keys))):
            at = bisect.bisect_left(range(low, high), key, key=lambda row: keys[row].as_py()) + low
            if at < high and keys[at].as_py() == key:
                return at
        return None

    def details(self, row: int) -> dict[str, Any]:
        """All columns of a row, from its table. Raises DamageError if it can't be read any more."""
        kept = self.columns.kept
        tables, at = (self.tables.kept, row) if row < kept else (self.tables.rejected, row - kept)
        return _read_row(tables, at)

    # --- Clusters --------------------------------------------------------------------------------

    def cluster_sizes(self) -> Ints:
        """The number of rows that each row leads, int32 [R]; 1 for a row alone, 0 for one that leads none."""
        leaders = self.columns.leader_R
        return np.bincount(leaders[leaders != NONE], minlength=self.columns.rows).astype(np.int32)

    def clusters(self) -> Ints:
        """The leaders of clusters of more than one row, the largest first."""
        sizes = self.cluster_sizes()
        leaders = np.flatnonzero(sizes > 1)
        return leaders[np.argsort(-sizes[leaders], kind="stable")].astype(np.int32)

    def members(self, row: int) -> Ints:
        """The rows of a row's cluster, its leader first; empty if it is in none."""
        leader = int(self.columns.leader_R[row])
        if leader == NONE:
            return np.empty(0, np.int32)
        if self._by_leader is None:
            leaders = self.columns.leader_R
            rows = np.flatnonzero(leaders != NONE).astype(np.int32)
            self._by_leader = _grouped(leaders[rows], rows, self.columns.rows)
        starts, rows = self._by_leader
        found = rows[starts[leader] : starts[leader + 1]]
        return np.concatenate(([leader], found[found != leader])).astype(np.int32)


def _grouped(groups: Ints, rows: Ints, number: int) -> tuple[Ints, Ints]:
    """Rows sorted by their group, and where each group starts (`number` + 1 places)."""
    order = np.argsort(groups, kind="stable")
    starts = np.zeros(number + 1, np.int64)
    np.cumsum(np.bincount(groups, minlength=number), out=starts[1:])
    return starts.astype(np.int32), rows[order]


def _is_in(numbers: Ints, size: int) -> Any:
    found = np.zeros(size, bool)
    found[numbers] = True
    return found


def _number(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else -2  # none has it


def _value(number: int) -> int | None:
    return None if number == NONE else number


def _read_row(tables: Sequence[Path], at: int) -> dict[str, Any]:
    """The row at a place counted over all tables."""
    start = 0
    for path in tables:
        try:
            rows = pq.read_metadata(path).num_rows
            if at < start + rows:
                return _read_from(path, at - start)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ContractError(f"{path.name} can't be read any more ({error}). Reload.") from error
        start += rows
    raise ContractError("The row is not in the tables any more. Reload.")


def _read_from(path: Path, at: int) -> dict[str, Any]:
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            rows = file.metadata.row_group(number).num_rows
            if at < rows:
                group = file.read_row_group(number)
                row: dict[str, Any] = group.slice(at, 1).to_pylist()[0]
                return row
            at -= rows
    raise ContractError(f"{path.name} has fewer rows than before. Reload.")
