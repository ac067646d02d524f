"""The rows of the ledger as columns of numbers: what decisions about all rows at once are made from.

Some 60 bytes a row, so that a million rows take 60 MB; captions, URLs and image bytes are never all
in memory. Index i is the i-th row by key, everywhere in this stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.contracts import REJECT_REASONS
from pipeline.dedupe.captions import Caption, find_defect, read_caption
from pipeline.dedupe.store import Row

T = TypeVar("T")

NO_RANK = np.iinfo(np.int32).max
KEPT_CODE = 0
_CHUNK_ROWS = 4_096
_CODES = {reason: code for code, reason in enumerate(REJECT_REASONS, start=1)}

_DTYPE = np.dtype(
    [
        ("reason", np.uint8),  # 0: nothing against it, n: REJECT_REASONS[n - 1]
        ("masked", np.bool_),
        ("rank", np.int32),
        ("caption", np.uint64),
        ("pixels", np.int64),  # width × height
        ("phash", np.uint64),
        ("raster", np.uint64, 2),  # the first 128 bits of the pixels' hash
        ("file", np.uint64, 2),  # the first 128 bits of the bytes' hash
    ]
)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """All rows, sorted by key: `table` has one record a row, `keys` their keys."""

    table: npt.NDArray[Any]
    keys: pa.Array

    def __len__(self) -> int:
        return len(self.table)

    def key(self, index: int) -> str:
        """The key of row `index`."""
        return str(self.keys[index].as_py())


def load_rows(rows: Iterable[Row], *, drop_masked: bool) -> Rows:
    """Read the rows into columns, each with the first reason that speaks against it alone."""
    tables, keys = [], []
    for chunk in in_chunks(rows, _CHUNK_ROWS):
        records = [_as_record(row, drop_masked) for row in chunk]
        tables.append(np.array(records, dtype=_DTYPE))
        keys.append(pa.array([row.key for row in chunk], type=pa.string()))
    table = np.concatenate(tables) if tables else np.empty(0, dtype=_DTYPE)
    return Rows(table=table, keys=pa.chunked_array(keys, type=pa.string()))


def reason_code(reason: str) -> int:
    """The number of a `RejectReason` in the column `reason`."""
    return _CODES[reason]


def find_fault(row: Row, *, drop_masked: bool) -> tuple[str, str] | None:
    """The reason and detail that speak against a row whatever the other rows are, or None.

    The first of: not fetched, not decodable (or crashed, or too large), a bad caption, masked.
    """
    if row.state != "done":
        return "not_fetched", ": ".join(filter(None, (row.state, row.reason)))
    if row.status != "ok":
        return str(row.status), str(row.detail)
    defect = find_defect(caption_of(row.caption).caption)
    if defect is not None:
        return "bad_caption", defect
    if row.masked and drop_masked:
        return "masked", "its upper part was given by an image prompt"
    return None


@lru_cache(maxsize=4096)
def caption_of(text: str | None) -> Caption:
    """`read_caption`, remembered: a caption comes once for each of its images."""
    return read_caption(text)


def in_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    read: Callable[[], list[T]] = lambda: list(islice(iterator, size))  # noqa: E731
    return iter(read, [])


def _as_record(row: Row, drop_masked: bool) -> tuple[Any, ...]:
    fault = find_fault(row, drop_masked=drop_masked)
    return (
        _CODES[fault[0]] if fault else KEPT_CODE,
        bool(row.masked),
        NO_RANK if row.rank is None else row.rank,
        caption_of(row.caption).number,
        (row.width or 0) * (row.height or 0),
        (row.phash or 0) % 2**64,
        _halves(row.pixel_sha256),
        _halves(row.sha256),
    )


def _halves(digest: str | None) -> tuple[int, int]:
    return (int(digest[:16], 16), int(digest[16:32], 16)) if digest else (0, 0)
