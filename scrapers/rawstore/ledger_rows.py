"""The rows of the ledger, as they are written and read. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from pipeline.core.contracts import UrlState
from scrapers.fetch.storable import storable

_INT64 = 2**63 - 1
# `UrlRow` has a field of this name.
Digest = bytes


class FormRow(NamedTuple):
    """A caption form. `plan` is the id of the first form of its caption.

    `rank` is the rank of an image whose URL has none, `extra` a JSON object.
    """

    id: int
    key: str
    plan: int
    section: str
    caption: str
    masked: bool
    num_ranks: int
    prefix: str
    suffix: str | None
    rank: int | None = None
    extra: str | None = None


class UrlRow(NamedTuple):
    """The outcome of a URL, as it is written."""

    form: int
    rank: int
    state: int
    status_code: int | None
    reason: str | None
    attempts: int
    etag: str | None
    last_modified: str | None
    final_url: str | None
    sha256: bytes | None
    bytes: int | None
    segment: int | None
    offset: int | None
    version: int
    time: int
    evidence: str | None = None
    # The hash of what came, if it was resized.
    original_sha256: Digest | None = None


class Touch(NamedTuple):
    """The outcome of another request for bytes that we keep: unchanged, gone, or no response."""

    state: int
    status_code: int | None
    reason: str | None
    attempts: int
    time: int
    etag: str | None
    last_modified: str | None
    evidence: str | None
    form: int
    rank: int


class Known(NamedTuple):
    """What a crawl needs to know about a URL that is in the ledger."""

    form: int
    rank: int
    state: UrlState
    status_code: int | None
    etag: str | None
    last_modified: str | None
    sha256: bytes | None
    version: int
    last_time: int
    reason: str | None
    final_url: str | None
    original_sha256: bytes | None = None

    @property
    def sha256_as_it_came(self) -> bytes | None:
        """The hash of the bytes that the server sent."""
        return None if self.sha256 is None else self.original_sha256 or self.sha256


class BatchRows(NamedTuple):
    """The rows of one batch."""

    forms: Sequence[FormRow]
    changed: Sequence[tuple[int, int]]
    rows: Sequence[UrlRow]
    touched: Sequence[Touch]

    def mended(self) -> BatchRows:
        """The same rows with values that SQLite accepts; an altered row gets a reason."""
        return BatchRows(
            [_mended(row) for row in self.forms],
            self.changed,
            [_mended(row) for row in self.rows],
            [_mended(row) for row in self.touched],
        )


Row = TypeVar("Row", FormRow, UrlRow, Touch)


def _mended(row: Row) -> Row:
    values = dict(zip(row._fields, map(_writable, row), strict=True))
    if tuple(values.values()) != tuple(row) and values.get("reason", "") is None:
        values["reason"] = "unstorable"
    return type(row)(**values)  # type: ignore[arg-type]


def _writable(value: object) -> object:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, int):
        return max(-_INT64, min(_INT64, value))
    return value if value is None or isinstance(value, (bytes, float)) else storable(str(value))
