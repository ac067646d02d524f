"""What a ledger knows of the user's own files that hold images: rows, and their changes in one batch.

Nothing of such a file is copied: a row of `urls` whose `segment` is -n points into file n.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from scrapers.rawstore.ledger_schema import STATE_NUMBER

_IDS_AT_ONCE = 900  # SQLite takes at most 999 values
# A row whose file has changed since: to be read again.
CHANGED = "changed"

_UPSERT = """
INSERT INTO files VALUES(?, ?, ?, ?) ON CONFLICT(number) DO UPDATE SET
  path = excluded.path, bytes = excluded.bytes, mtime = excluded.mtime
"""
_FORGET = f"""
UPDATE urls SET state = {STATE_NUMBER["pending"]}, reason = '{CHANGED}', sha256 = NULL, bytes = NULL,
  segment = NULL, offset = NULL WHERE segment = -?1 AND segment < 0
"""
_GONE = f"""
UPDATE urls SET state = {STATE_NUMBER["missing"]}, reason = 'gone'
WHERE segment = -?1 AND segment < 0 AND state != {STATE_NUMBER["missing"]}
"""
_NOT_FOUND_AGAIN = f"""
UPDATE urls SET state = {STATE_NUMBER["missing"]}, reason = 'gone'
WHERE state = {STATE_NUMBER["pending"]} AND reason = '{CHANGED}'
"""
_PRUNE = """
DELETE FROM files WHERE NOT EXISTS(
  SELECT 1 FROM urls u WHERE u.segment = -files.number AND u.segment < 0)
"""
_FORM = "UPDATE forms SET prefix = ?, section = ?, caption = ?, rank = ?, extra = ? WHERE id = ?"
_KNOWN = """
SELECT f.key, f.id, f.prefix, f.section, f.caption, f.rank, f.extra,
  u.state, u.reason, u.etag, u.sha256, u.bytes, u.segment, u.offset, u.version, u.last_time,
  x.path, x.bytes, x.mtime,
  (SELECT json_group_array(c.caption) FROM captions c WHERE c.form = f.id)
FROM forms f JOIN urls u ON u.form = f.id AND u.rank = 0 LEFT JOIN files x ON x.number = -u.segment
WHERE f.key IN ({marks})
"""
_AT_PATHS = "SELECT number, path, bytes, mtime FROM files WHERE path IN ({marks})"


class FileRow(NamedTuple):
    """A file that holds images: its absolute path or address, its length, its time in nanoseconds."""

    number: int
    path: str
    bytes: int
    mtime: int


class FormChange(NamedTuple):
    """What a source says now of an image that is known already."""

    prefix: str
    section: str
    caption: str
    rank: int | None
    extra: str | None
    id: int


class KnownFile(NamedTuple):
    """An image in the ledger with its form and the file that it is in; `further` are captions as JSON."""

    key: str
    form: int
    prefix: str
    section: str
    caption: str
    rank: int | None
    extra: str | None
    state: int
    reason: str | None
    etag: str | None
    sha256: bytes | None
    bytes: int | None
    segment: int | None
    offset: int | None
    version: int
    last_time: int
    path: str | None
    file_bytes: int | None
    mtime: int | None
    further: str = "[]"


class Queried(Protocol):
    """What queries of a ledger need."""

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows of a query."""


@dataclass(slots=True)
class FileChanges:
    """The changes of one batch, written before its other rows.

    `files` are new or changed; images in `forgotten` files (by number) become pending, those in `gone` files
    missing. `dropped` are forms whose further captions are replaced. `ends` concludes a complete run: images
    that were to be read again and were not found are missing, files without images are deleted.
    """

    files: list[FileRow] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    forms: list[FormChange] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    ends: bool = False

    def __len__(self) -> int:
        files = len(self.files) + len(self.forgotten) + len(self.gone)
        return files + len(self.forms) + len(self.dropped) + self.ends

    def write(self, ledger: sqlite3.Connection) -> None:
        """Execute the changes, within the caller's transaction."""
        ledger.executemany(_FORGET, ((number,) for number in self.forgotten))
        ledger.executemany(_UPSERT, self.files)
        ledger.executemany(_GONE, ((number,) for number in self.gone))
        ledger.executemany(_FORM, self.forms)
        ledger.executemany("DELETE FROM captions WHERE form = ?", ((n,) for n in self.dropped))
        if self.ends:
            ledger.execute(_NOT_FOUND_AGAIN)
            ledger.execute(_PRUNE)


def known_files(ledger: Queried, keys: Sequence[str]) -> dict[str, KnownFile]:
    """The images with these keys that are in the ledger, by key."""
    rows = _select(ledger, _KNOWN, keys)
    return {known.key: known for known in (KnownFile(*row) for row in rows)}  # type: ignore[arg-type]


def files_at(ledger: Queried, paths: Sequence[str]) -> dict[str, FileRow]:
    """The files in the ledger at these paths, by path."""
    rows = _select(ledger, _AT_PATHS, paths)
    return {row.path: row for row in (FileRow(*row) for row in rows)}  # type: ignore[arg-type]


def all_files(ledger: Queried, *, after: int, limit: int) -> list[FileRow]:
    """At most `limit` files with a number greater than `after`, in order."""
    sql = "SELECT number, path, bytes, mtime FROM files WHERE number > ? ORDER BY number LIMIT ?"
    return [FileRow(*row) for row in ledger.query(sql, after, limit)]  # type: ignore[arg-type]


def next_file_number(ledger: Queried) -> int:
    """The first number that no file has."""
    ((number,),) = ledger.query("SELECT coalesce(max(number), 0) + 1 FROM files")
    return int(number)  # type: ignore[call-overload, no-any-return]


def _select(ledger: Queried, sql: str, values: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for start in range(0, len(values), _IDS_AT_ONCE):
        some = values[start : start + _IDS_AT_ONCE]
        yield from ledger.query(sql.format(marks=",".join("?" * len(some))), *some)
