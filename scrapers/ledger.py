"""The ledger: one row a URL in SQLite, what was asked and what came.

A caption form is written once and its images refer to it, so that 1.1 million rows stay around
150 MB; readers see the view `items` of `pipeline.contracts.LEDGER_ITEMS`. WAL mode: one thread
writes, others read. Rows are committed after their bytes are on disk, never before.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.contracts import URL_STATES, UrlState
from pipeline.errors import ContractError, StorageError, damaged
from scrapers.ledger_checks import (
    KNOWN_TYPES,
    SEGMENT_TYPES,
    check_integer,
    check_row,
    check_state,
    refuse_irregular,
)
from scrapers.ledger_schema import (
    ABSENCES,
    ADD_EVIDENCE,
    LEDGER_VERSION,
    STATE_NUMBER,
    TABLES,
    items_view,
)
from scrapers.segments import SegmentState


class FormRow(NamedTuple):
    """A caption form. `plan` is the id of the first form of its caption."""

    id: int
    key: str
    plan: int
    section: str
    caption: str
    masked: bool
    num_ranks: int
    prefix: str
    suffix: str | None


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


class Touch(NamedTuple):
    """Asked again for bytes that we keep: unchanged, gone, or no answer this time."""

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
    """What a crawl needs to know of a URL that it has met."""

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


_UPSERT = """
INSERT INTO urls(form, rank, state, status_code, reason, attempts, etag, last_modified, final_url,
  sha256, bytes, segment, offset, version, last_time, evidence, first_time)
VALUES{values}
ON CONFLICT(form, rank) DO UPDATE SET state = excluded.state, status_code = excluded.status_code,
  reason = excluded.reason, attempts = attempts + excluded.attempts, etag = excluded.etag,
  last_modified = excluded.last_modified, final_url = excluded.final_url, sha256 = excluded.sha256,
  bytes = excluded.bytes, segment = excluded.segment, offset = excluded.offset,
  version = excluded.version, evidence = excluded.evidence, last_time = excluded.last_time
"""
_ROW_VALUES = "(" + ",".join("?" * 17) + ")"
# Rows a statement: each one waits for the interpreter's lock. SQLite may take 999 values at most.
_ROWS_AT_ONCE = 58
_UPSERT_ONE = _UPSERT.format(values=_ROW_VALUES)
_UPSERT_MANY = _UPSERT.format(values=",".join([_ROW_VALUES] * _ROWS_AT_ONCE))
_TOUCH = f"""
UPDATE urls SET state = ?1, status_code = ?2, reason = ?3, attempts = attempts + ?4, last_time = ?5,
  etag = coalesce(?6, etag), last_modified = coalesce(?7, last_modified),
  evidence = CASE ?1 WHEN {STATE_NUMBER["opted_out"]} THEN coalesce(?8, evidence) END
WHERE form = ?9 AND rank = ?10
"""
_ARCHIVE = """
INSERT OR REPLACE INTO versions
SELECT form, rank, version, etag, last_modified, sha256, bytes, segment, offset
FROM urls WHERE form = ? AND rank = ?
"""
_KNOWN = """
SELECT form, rank, state, status_code, etag, last_modified, sha256, version, last_time, reason,
  final_url
FROM urls WHERE form = ?
"""


class Ledger:
    """One connection to `ledger.sqlite`, for one thread at a time. Raises StorageError when the disk does."""

    def __init__(self, path: Path, source: str | None = None) -> None:
        """Open the ledger at `path`; with `source` given, make it where there is none."""
        self.path = path
        if source is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not os.path.lexists(path):
            raise ContractError(f"There is no ledger at {path}. Run `pipeline scrape` first.")
        refuse_irregular(path)
        with self._errors():
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode = WAL")
            # FULL: a committed row survives a power cut, as its bytes do.
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.execute("PRAGMA cache_size = -16384")
            if source is not None:
                self._create(source)
            self._check_version()

    def _create(self, source: str) -> None:
        if self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._migrate()
            return
        script = f"BEGIN IMMEDIATE;{TABLES}{ABSENCES};{items_view()};COMMIT;"
        self._db.executescript(script)
        self.set_meta("source", source)
        self.set_meta("version", str(LEDGER_VERSION))

    def _migrate(self) -> None:
        """Add what ledgers of earlier versions were made without."""
        self._db.execute(ABSENCES)
        if "evidence" not in self.columns("urls"):
            view = f"DROP VIEW items;{items_view()}"
            self._db.executescript(f"BEGIN IMMEDIATE;{ADD_EVIDENCE};{view};COMMIT;")

    def columns(self, table: str) -> set[str]:
        """The names of the columns of a table or view."""
        return {str(row[1]) for row in self.query(f"PRAGMA table_info({table})")}

    def _check_version(self) -> None:
        found = self.meta("version")
        if found not in (None, str(LEDGER_VERSION)):
            raise ContractError(
                f"{self.path} was written by ledger version {found}, this pipeline reads version "
                f"{LEDGER_VERSION}. Use the pipeline that wrote it, or a new --workspace."
            )

    def _translate(self, error: sqlite3.Error) -> StorageError | ContractError:
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            return StorageError(
                f"The disk is full: no room to write {self.path}. What was fetched before is safe; "
                "free some space and give the same command again."
            )
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            return ContractError(
                f"{self.path} is not a ledger ({error}). Move it away, or give another --workspace."
            )
        if not isinstance(error, sqlite3.OperationalError) or "no such" in str(error):
            return damaged(f"{self.path} is damaged ({error}).")
        return StorageError(f"Can't read or write {self.path}: {error}.")

    def meta(self, name: str) -> str | None:
        """A note kept beside the rows."""
        rows = list(self.query("SELECT value FROM meta WHERE name = ?", name))
        return str(rows[0][0]) if rows else None

    def set_meta(self, name: str, value: str | None) -> None:
        """Keep a note, or with None forget it."""
        with self._errors():
            if value is None:
                self._db.execute("DELETE FROM meta WHERE name = ?", (name,))
            else:
                self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    def _errors(self) -> _Translating:
        return _Translating(self)

    def commit(
        self,
        *,
        forms: Iterable[FormRow] = (),
        changed: Iterable[tuple[int, int]] = (),
        rows: Sequence[UrlRow] = (),
        touched: Iterable[Touch] = (),
        absences: Iterable[tuple[int, int, int]] = (),
        segments: Iterable[SegmentState] = (),
    ) -> None:
        """Write a batch as one transaction: all of it or nothing. The bytes must be on disk.

        `changed` names the rows whose present version is kept in `versions`; `absences` are (form,
        rank, refreshes that missed it), 0 where it was there.
        """
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._db.executemany("INSERT INTO forms VALUES(?,?,?,?,?,?,?,?,?)", forms)
                self._db.executemany(_ARCHIVE, changed)
                self._upsert(rows)
                self._db.executemany(_TOUCH, touched)
                self._db.executemany("INSERT OR REPLACE INTO absences VALUES(?, ?, ?)", absences)
                self._db.execute("DELETE FROM absences WHERE refreshes = 0")
                self._db.executemany("INSERT OR REPLACE INTO segments VALUES(?, ?, ?)", segments)
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def _upsert(self, rows: Sequence[UrlRow]) -> None:
        whole = len(rows) - len(rows) % _ROWS_AT_ONCE
        for start in range(0, whole, _ROWS_AT_ONCE):
            some = rows[start : start + _ROWS_AT_ONCE]
            self._db.execute(_UPSERT_MANY, [value for row in some for value in (*row, row.time)])
        self._db.executemany(_UPSERT_ONE, ((*row, row.time) for row in rows[whole:]))

    def form_id(self, key: str) -> int | None:
        """The id of the form with this key."""
        rows = list(self.query("SELECT id FROM forms WHERE key = ?", key))
        return check_integer(self.path, rows[0][0]) if rows else None

    def next_form_id(self) -> int:
        """The first free id."""
        ((number,),) = self.query("SELECT coalesce(max(id), 0) + 1 FROM forms")
        return check_integer(self.path, number)

    def known(self, form: int) -> list[Known]:
        """All rows of a form, by rank."""
        rows = (check_row(self.path, row, KNOWN_TYPES) for row in self.query(_KNOWN, form))
        return [Known(r[0], r[1], check_state(self.path, r[2]), *r[3:]) for r in rows]

    def last_time(self) -> int:
        """The latest time that a row was asked for, in seconds; 0 where there is none."""
        ((seconds,),) = self.query("SELECT coalesce(max(last_time), 0) FROM urls")
        return check_integer(self.path, seconds)

    def absences(self) -> dict[tuple[int, int], int]:
        """By form and rank: how many refreshes in a row missed an image that counts as there."""
        rows = self.query("SELECT form, rank, refreshes FROM absences")
        return {
            (check_integer(self.path, form), check_integer(self.path, rank)): check_integer(
                self.path, number
            )
            for form, rank, number in rows
        }

    def count_states(self) -> Counter[str]:
        """URLs by state; every state is named."""
        counts = Counter(dict.fromkeys(URL_STATES, 0))
        for state, number in self.query("SELECT state, count(*) FROM urls GROUP BY state"):
            counts[check_state(self.path, state)] = check_integer(self.path, number)
        return counts

    def segment_states(self) -> list[SegmentState]:
        """All segments, in order."""
        rows = self.query("SELECT number, bytes, sha256 FROM segments ORDER BY number")
        return [SegmentState(*check_row(self.path, row, SEGMENT_TYPES)) for row in rows]

    def forget_lost(self, segment: int, size: int) -> int:
        """Rows whose bytes lie behind `size` in a segment are pending again; how many there were.

        The segment counts as closed at the end of its last whole image.
        """
        end = "SELECT coalesce(max((offset + bytes + 511) / 512 * 512), 0) FROM urls WHERE segment = ?1"
        with self._errors():
            lost = self._db.execute(
                "UPDATE urls SET state = 0, reason = 'lost_bytes', sha256 = NULL, bytes = NULL,"
                " segment = NULL, offset = NULL"
                " WHERE segment = ? AND (offset + bytes + 511) / 512 * 512 > ?",
                (segment, size),
            ).rowcount
            self._db.execute(f"UPDATE segments SET bytes = ({end}) WHERE number = ?1", (segment,))
        return lost

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """Rows of a read."""
        with self._errors():
            yield from self._db.execute(sql, values)

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # A full disk or a reader: the log stays beside the file, which is as good.
        finally:
            self._db.close()


class _Translating:
    """SQLite's errors become ours."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._ledger._translate(error) from error
