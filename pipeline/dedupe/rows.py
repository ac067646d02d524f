"""The rows of the ledger, sorted by key, in files: the input of decisions about all rows at once.

Decisions need numbers of every row: each is a column in a separate file, read on demand. The tables need
captions, URLs and inspections: these are in a stream of Arrow batches. Memory holds one byte a row. Index i
is the i-th row by key, everywhere in this stage.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.core.contracts import KEPT, REJECT_REASONS, Column
from pipeline.core.storage import arrow_schema
from pipeline.dedupe.column_file import ColumnFile
from pipeline.dedupe.row_captions import RowCaptions, read_row_captions
from pipeline.dedupe.store import ROW_FIELDS, LedgerRow
from pipeline.dedupe.tables import as_array

NO_RANK = np.iinfo(np.int32).max
KEPT_CODE = 0
_CODES = {reason: code for code, reason in enumerate(REJECT_REASONS, start=1)}

_COLUMN_TYPES: Mapping[str, np.dtype[Any]] = {
    "rank": np.dtype(np.int32),
    "caption": np.dtype(np.uint64),
    "pixels": np.dtype(np.int64),  # width × height
    "phash": np.dtype(np.uint64),
    "raster": np.dtype((np.uint64, 2)),  # the first 128 bits of the pixels' hash
    "file": np.dtype((np.uint64, 2)),  # the first 128 bits of the bytes' hash
}
_DECIDED = {"masked_rows", "cluster", "split"}
_IMAGES = arrow_schema(
    (
        *(column for column in KEPT if column.name not in _DECIDED),
        Column("masked", "bool", "An image prompt supplied its upper part."),
        Column("detail", "string", "Why it is rejected by itself, null if it isn't."),
    )
)
_END = np.dtype(np.int64)

Columns = Mapping[str, Sequence[Any]]


class FurtherCaptions(NamedTuple):
    """Usable captions of rows beside the first: entry i is the caption `numbers[i]` of the row `rows[i]`."""

    rows: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, captions: Sequence[RowCaptions], start: int = 0) -> FurtherCaptions:
        """Those of consecutive rows; `start` is the index of the first."""
        rows = [row for row, found in enumerate(captions, start) for _ in found.usable[1:]]
        numbers = [each.number for found in captions for each in found.usable[1:]]
        return cls(np.array(rows, dtype=np.int64), np.array(numbers, dtype=np.uint64))

    @classmethod
    def joined(cls, parts: Sequence[FurtherCaptions]) -> FurtherCaptions:
        """The entries of all parts, of which there is at least one."""
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Rows:
    """All rows of the ledger, in the files of a folder; use it in a `with`.

    `reason` [rows] is why each row is rejected so far: 0 for kept, n for `REJECT_REASONS[n - 1]`. `further`
    are the captions of rows beside the one in their column. `bad_captions` counts captions that were left out
    of rows that have a usable one.
    """

    def __init__(
        self,
        folder: Path,
        reason: npt.NDArray[np.uint8],
        further: FurtherCaptions,
        bad_captions: int = 0,
    ) -> None:
        self.folder = folder
        self.reason = reason
        self.further = further
        self.bad_captions = bad_captions
        self._keys = (folder / "keys").open("rb", buffering=0)
        self._ends = (folder / "ends").open("rb", buffering=0)

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self._keys.close()
        self._ends.close()

    def __len__(self) -> int:
        return len(self.reason)

    def column(self, name: str) -> ColumnFile:
        """One column: rank, caption, pixels, phash, raster or file."""
        return ColumnFile(self.folder / name, _COLUMN_TYPES[name], len(self))

    def key(self, index: int) -> str:
        """The key of row `index`."""
        ends = os.pread(self._ends.fileno(), 2 * _END.itemsize, index * _END.itemsize)
        start, stop = np.frombuffer(ends, _END).tolist()
        return os.pread(self._keys.fileno(), stop - start, start).decode()

    def images(self) -> Iterator[pa.RecordBatch]:
        """Everything known of each row on its own, in batches."""
        options = pa.ipc.IpcReadOptions(use_threads=False)
        with pa.OSFile(str(self.folder / "images")) as file:
            yield from pa.ipc.open_stream(file, options=options)


def load_rows(
    chunks: Iterable[list[LedgerRow]], folder: Path, *, drop_masked: bool, drop_cut: bool
) -> Rows:
    """Write the rows to files in `folder`, each with the first reason to reject it on its own."""
    folder.mkdir(parents=True, exist_ok=True)
    reasons = [np.empty(0, dtype=np.uint8)]
    further = [FurtherCaptions.of([])]
    start = bad_captions = 0
    with ExitStack() as stack:
        writer = _RowWriter(folder, stack)
        for chunk in chunks:
            columns = dict(zip(ROW_FIELDS, zip(*chunk, strict=True), strict=True))
            pairs = zip(columns["caption"], columns["captions"], strict=True)
            captions = [read_row_captions(*pair) for pair in pairs]
            faults = _find_faults(columns, captions, drop_masked=drop_masked, drop_cut=drop_cut)
            codes = [KEPT_CODE if fault is None else _CODES[fault[0]] for fault in faults]
            reasons.append(np.array(codes, dtype=np.uint8))
            writer.add(columns, captions, [fault and fault[1] for fault in faults])
            further.append(FurtherCaptions.of(captions, start))
            bad_captions += sum(found.bad for found in captions)
            start += len(chunk)
    return Rows(folder, np.concatenate(reasons), FurtherCaptions.joined(further), bad_captions)


class _RowWriter:
    """Writes the files of `Rows`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._files = {
            name: stack.enter_context((folder / name).open("wb"))
            for name in (*_COLUMN_TYPES, "keys", "ends")
        }
        images = stack.enter_context(pa.OSFile(str(folder / "images"), "wb"))
        # Each compressing thread would keep the memory that it freed: 30 MB more.
        options = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
        self._images = stack.enter_context(pa.ipc.new_stream(images, _IMAGES, options=options))
        self._end = 0
        np.zeros(1, dtype=_END).tofile(self._files["ends"])

    def add(
        self, columns: Columns, captions: Sequence[RowCaptions], details: Sequence[str | None]
    ) -> None:
        """Write the next rows."""
        self._add_keys([key.encode() for key in columns["key"]])
        for name, values in _numeric_columns(columns, captions).items():
            values.astype(_COLUMN_TYPES[name].base, copy=False).tofile(self._files[name])
        shown = dict(columns) | {
            "bytes": columns["length"],
            "bytes_sha256": columns["sha256"],
            "caption_id": [found.first.caption_id for found in captions],
            "caption": [found.first.caption for found in captions],
            "captions": [[each.caption for each in found.usable] for found in captions],
            "caption_normalized": [found.first.normalized for found in captions],
            "masked": [bool(masked) for masked in columns["masked"]],
            "detail": details,
        }
        arrays = [as_array(shown[field.name], field.type) for field in _IMAGES]
        self._images.write_batch(pa.record_batch(arrays, schema=_IMAGES))

    def _add_keys(self, keys: Sequence[bytes]) -> None:
        self._files["keys"].write(b"".join(keys))
        ends = self._end + np.cumsum([len(key) for key in keys], dtype=_END)
        ends.tofile(self._files["ends"])
        self._end = int(ends[-1])


def reason_code(reason: str) -> int:
    """The number that represents a `RejectReason` in `Rows.reason`."""
    return _CODES[reason]


def _find_faults(
    columns: Columns, captions: Sequence[RowCaptions], *, drop_masked: bool, drop_cut: bool
) -> list[tuple[str, str] | None]:
    """The reason to reject each row regardless of other rows, with its detail, or None.

    The first of: not fetched, not decodable (or crashed, or too large), cut, no usable caption, masked.
    """
    names = ("state", "reason", "status", "detail", "looks_cut", "masked")
    faults: list[tuple[str, str] | None] = []
    for found, state, reason, status, detail, cut, masked in zip(
        captions, *(columns[name] for name in names), strict=True
    ):
        fault = None
        if state != "done":
            fault = "not_fetched", ": ".join(filter(None, (state, reason)))
        elif status != "ok":
            fault = str(status), str(detail)
        elif cut and drop_cut:
            fault = "looks_cut", "the data ends before the image does"
        elif found.defect is not None:
            fault = "bad_caption", found.defect
        elif masked and drop_masked:
            fault = "masked", "its upper part came from an image prompt"
        faults.append(fault)
    return faults


def _numeric_columns(
    columns: Columns, captions: Sequence[RowCaptions]
) -> dict[str, npt.NDArray[Any]]:
    sizes = zip(columns["width"], columns["height"], strict=True)
    return {
        "rank": np.array([NO_RANK if rank is None else rank for rank in columns["rank"]]),
        "caption": np.array([found.first.number for found in captions], dtype=np.uint64),
        "pixels": np.array([(width or 0) * (height or 0) for width, height in sizes]),
        "phash": np.array([phash or 0 for phash in columns["phash"]], dtype=np.int64),
        "raster": _hash_prefixes(columns["pixel_sha256"]),
        "file": _hash_prefixes(columns["sha256"]),
    }


def _hash_prefixes(digests: Sequence[str | None]) -> npt.NDArray[np.uint64]:
    """The first 128 bits of hex hashes [hashes, 2], 0 where there is none."""
    digits = bytes.fromhex("".join(digest[:32] if digest else "0" * 32 for digest in digests))
    return np.frombuffer(digits, dtype=">u8").astype(np.uint64).reshape(-1, 2)
