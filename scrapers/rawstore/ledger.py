"""The ledger: one row per URL in SQLite, with its request and its outcome.

A caption form is written once and its images refer to it, so that 1.1 million rows take about 150 MB; readers
see the view `items` of `pipeline.core.contracts.LEDGER_ITEMS`. WAL mode: one thread writes, others read. Rows
are committed after their bytes are on disk, never before.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from pipeline.core.contracts import URL_STATES
from pipeline.core.errors import ContractError, StorageError, damaged
from pipeline.core.storage import maker_of
from scrapers.rawstore.file_rows import FileChanges
from scrapers.rawstore.latency_counts import Answered, add_latencies
from scrapers.rawstore.ledger_checks import (
    FORM_TYPES,
    KNOWN_TYPES,
    SEGMENT_TYPES,
    check_integer,
    check_row,
    check_state,
    refuse_irregular,
)
from scrapers.rawstore.ledger_rows import BatchRows, FormRow, Known, Touch, UrlRow
from scrapers.rawstore.ledger_schema import (
    ABSENCES,
    ADDED_COLUMNS,
    CAPTIONS,
    FILES,
    HOST_LATENCIES,
    LATENCIES,
    LEDGER_VERSION,
    READABLE_VERSIONS,
    STATE_NUMBER,
    TABLES,
    items_view,
)
from scrapers.rawstore.locked_database import BUSY_S, Patience, is_busy
from scrapers.rawstore.segments import SegmentState

_UPSERT = """
INSERT INTO urls(form, rank, state, status_code, reason, attempts, etag, last_modified, final_url,
  sha256, bytes, segment, offset, version, last_time, evidence, original_sha256, first_time)
VALUES{values}
ON CONFLICT(form, rank) DO UPDATE SET state = excluded.state, status_code = excluded.status_code,
  reason = excluded.reason, attempts = attempts + excluded.attempts, etag = excluded.etag,
  last_modified = excluded.last_modified, final_url = excluded.final_url, sha256 = excluded.sha256,
  bytes = excluded.bytes, segment = excluded.segment, offset = excluded.offset,
  version = excluded.version, evidence = excluded.evidence, last_time = excluded.last_time,
  original_sha256 = excluded.original_sha256
"""
_ROW_VALUES = "(" + ",".join("?" * 18) + ")"
# Rows per statement: each statement waits for the interpreter's lock. SQLite takes at most 999 values.
_ROWS_AT_ONCE = 55
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
SELECT form, rank, version, etag, last_modified, sha256, bytes, segment, offset, original_sha256
FROM urls WHERE form = ? AND rank = ?
"""
_KNOWN = """
SELECT form, rank, state, status_code, etag, last_modified, sha256, version, last_time, reason,
  final_url, original_sha256
FROM urls WHERE form = ?
"""
_FORM = "SELECT id, caption FROM forms WHERE key = ?"
_FURTHER_CAPTIONS = "SELECT caption FROM captions WHERE form = ?"

# The errors of SQLite, or of Python on the way to it, for a value that a row can't hold.
_UNWRITABLE = (
    UnicodeEncodeError,
    OverflowError,
    sqlite3.InterfaceError,
    sqlite3.ProgrammingError,
    sqlite3.DataError,
)


class Ledger:
    """One connection to `ledger.sqlite`, for one thread at a time. Raises StorageError if the disk fails."""

    def __init__(self, path: Path, source: str | None = None) -> None:
        """Open the ledger at `path`; with `source`, create it if there is none."""
        self.path = path
        if source is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        elif not os.path.lexists(path):
            maker = maker_of(path.parent, "raw")
            raise ContractError(f"There is no ledger at {path}. Run {maker} first.")
        refuse_irregular(path)
        self._patience = Patience(path)
        with self._errors():
            self._db = sqlite3.connect(
                path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        self._execute("PRAGMA journal_mode = WAL")
        # FULL: a committed row survives a power cut, as its bytes do.
        self._execute("PRAGMA synchronous = FULL")
        self._execute("PRAGMA cache_size = -16384")
        if source is not None:
            self._create(source)
        self._check_version()

    def _create(self, source: str) -> None:
        if self._execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            self._migrate()
            return
        latencies = f"{LATENCIES};{HOST_LATENCIES}"
        self._execute_script(f"{TABLES}{ABSENCES};{CAPTIONS};{latencies};{FILES}{items_view()}")
        self.set_meta("source", source)
        self.set_meta("version", str(LEDGER_VERSION))

    def _migrate(self) -> None:
        """Add what ledgers of earlier versions lack."""
        for table in (ABSENCES, LATENCIES, HOST_LATENCIES):
            self._execute(table)
        if self.meta("version") not in (None, *map(str, READABLE_VERSIONS[:-1])):
            return
        added = "".join(
            f"ALTER TABLE {table} ADD COLUMN {column} {kind};"
            for table, column, kind in ADDED_COLUMNS
            if column not in self.columns(table)
        )
        version = f"INSERT OR REPLACE INTO meta VALUES('version', '{LEDGER_VERSION}')"
        self._execute_script(
            f"{added}{CAPTIONS};{FILES}DROP VIEW IF EXISTS items;{items_view()};{version}"
        )

    def columns(self, table: str) -> set[str]:
        """The names of the columns of a table or view."""
        return {str(row[1]) for row in self.query(f"PRAGMA table_info({table})")}

    def _check_version(self) -> None:
        found = self.meta("version")
        if found not in (None, *map(str, READABLE_VERSIONS)):
            raise ContractError(
                f"{self.path} has the ledger version {found}, this pipeline reads versions up to "
                f"{LEDGER_VERSION}. Use the pipeline that wrote it, or a new --workspace."
            )

    def is_of_this_version(self) -> bool:
        """Whether it has all tables and columns of this version; earlier ones are read as they are."""
        return self.meta("version") == str(LEDGER_VERSION)

    def _translate(self, error: sqlite3.Error) -> StorageError | ContractError:
        if isinstance(error, sqlite3.OperationalError) and "full" in str(error):
            return StorageError(
                f"The disk is full: no room to write {self.path}. What was fetched before is safe; "
                "free some space and run the same command again."
            )
        if isinstance(error, sqlite3.DatabaseError) and "not a database" in str(error):
            return ContractError(
                f"{self.path} is not a ledger ({error}). Move it away, or give another --workspace."
            )
        if is_busy(error):
            return StorageError(
                f"Another program holds the lock on {self.path}: close it, and run the same command again."
            )
        if not isinstance(error, sqlite3.OperationalError) or "no such" in str(error):
            return damaged(f"{self.path} is damaged ({error}).")
        return StorageError(f"Can't read or write {self.path}: {error}.")

    def meta(self, name: str) -> str | None:
        """A note stored beside the rows."""
        rows = list(self.query("SELECT value FROM meta WHERE name = ?", name))
        return str(rows[0][0]) if rows else None

    def set_meta(self, name: str, value: str | None) -> None:
        """Store a note, or delete it with None."""
        if value is None:
            self._execute("DELETE FROM meta WHERE name = ?", name)
        else:
            self._execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", name, value)

    def give_up_waiting(self) -> None:
        """End all waiting for another program's lock with its error."""
        self._patience.end()

    def _execute(self, sql: str, *values: object) -> sqlite3.Cursor:
        """Execute a statement outside of a transaction; waits for other programs' locks."""
        with self._errors():
            return self._patience.wait_for(lambda: self._db.execute(sql, values))

    def _execute_script(self, sql: str) -> None:
        """Execute statements in one transaction."""
        script = f"BEGIN IMMEDIATE;{sql};COMMIT;"
        with self._errors():
            self._patience.wait_for(lambda: self._db.executescript(script))

    def _errors(self) -> _Translating:
        return _Translating(self)

    def commit(
        self,
        *,
        forms: Iterable[FormRow] = (),
        changed: Iterable[tuple[int, int]] = (),
        rows: Sequence[UrlRow] = (),
        touched: Iterable[Touch] = (),
        captions: Iterable[tuple[int, str]] = (),
        absences: Iterable[tuple[int, int, int]] = (),
        segments: Iterable[SegmentState] = (),
        answered: Iterable[Answered] = (),
        files: FileChanges | None = None,
    ) -> None:
        """Write a batch as one transaction: all of it or nothing. The bytes must be on disk.

        `changed` names the rows whose current version is kept in `versions`; `captions` are (form, further
        caption); `absences` are (form, rank, refreshes that missed it), 0 if it was there; `answered` has the
        latencies of the rows.
        """
        batch = BatchRows(tuple(forms), tuple(changed), rows, tuple(touched))
        end = tuple(captions), tuple(absences), tuple(segments), tuple(answered), files
        with self._errors():
            try:
                self._commit(batch, *end)
            except _UNWRITABLE:
                # One row that can't be written must not prevent the others.
                self._commit(batch.mended(), *end)

    def _commit(
        self,
        batch: BatchRows,
        captions: tuple[tuple[int, str], ...],
        absences: tuple[tuple[int, int, int], ...],
        segments: tuple[SegmentState, ...],
        answered: tuple[Answered, ...],
        files: FileChanges | None,
    ) -> None:
        self._execute("BEGIN IMMEDIATE")
        try:
            if files is not None:
                files.write(self._db)
            self._db.executemany("INSERT INTO forms VALUES(?,?,?,?,?,?,?,?,?,?,?)", batch.forms)
            self._db.executemany("INSERT OR IGNORE INTO captions VALUES(?, ?)", captions)
            self._db.executemany(_ARCHIVE, batch.changed)
            self._upsert(batch.rows)
            self._db.executemany(_TOUCH, batch.touched)
            self._db.executemany("INSERT OR REPLACE INTO absences VALUES(?, ?, ?)", absences)
            self._db.execute("DELETE FROM absences WHERE refreshes = 0")
            self._db.executemany("INSERT OR REPLACE INTO segments VALUES(?, ?, ?)", segments)
            add_latencies(self._db, answered)
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

    def form(self, key: str) -> tuple[int, str] | None:
        """Id and first caption of the form with this key."""
        # Without `query`: each URL of a list is looked up, and its generator costs as much as SQLite.
        with self._errors():
            row = self._patience.wait_for(lambda: self._db.execute(_FORM, (key,)).fetchone())
        if row is None:
            return None
        number, caption = check_row(self.path, row, FORM_TYPES)
        return number, caption

    def further_captions(self, form: int) -> set[str]:
        """The captions of a form other than the one in its row."""
        return {str(text) for (text,) in self.query(_FURTHER_CAPTIONS, form)}

    def next_form_id(self) -> int:
        """The first free id."""
        ((number,),) = self.query("SELECT coalesce(max(id), 0) + 1 FROM forms")
        return check_integer(self.path, number)

    def known(self, form: int) -> list[Known]:
        """All rows of a form, by rank."""
        rows = (check_row(self.path, row, KNOWN_TYPES) for row in self.query(_KNOWN, form))
        return [Known(r[0], r[1], check_state(self.path, r[2]), *r[3:]) for r in rows]

    def last_time(self) -> int:
        """The latest time at which a row was requested, in seconds; 0 if there is none."""
        ((seconds,),) = self.query("SELECT coalesce(max(last_time), 0) FROM urls")
        return check_integer(self.path, seconds)

    def absences(self) -> dict[tuple[int, int], int]:
        """How many consecutive refreshes missed an image that counts as there, by form and rank."""
        rows = self.query("SELECT form, rank, refreshes FROM absences")
        return {
            (check_integer(self.path, form), check_integer(self.path, rank)): check_integer(
                self.path, number
            )
            for form, rank, number in rows
        }

    def count_states(self) -> Counter[str]:
        """URLs by state; every state is present."""
        counts = Counter(dict.fromkeys(URL_STATES, 0))
        for state, number in self.query("SELECT state, count(*) FROM urls GROUP BY state"):
            counts[check_state(self.path, state)] = check_integer(self.path, number)
        return counts

    def segment_states(self) -> list[SegmentState]:
        """All segments, in order."""
        rows = self.query("SELECT number, bytes, sha256 FROM segments ORDER BY number")
        return [SegmentState(*check_row(self.path, row, SEGMENT_TYPES)) for row in rows]

    def forget_lost(self, segment: int, size: int) -> int:
        """Make rows pending whose bytes lie after `size` in a segment; returns their number.

        The segment counts as closed at the end of its last complete image.
        """
        end = "SELECT coalesce(max((offset + bytes + 511) / 512 * 512), 0) FROM urls WHERE segment = ?1"
        lost = self._execute(
            "UPDATE urls SET state = 0, reason = 'lost_bytes', sha256 = NULL, bytes = NULL,"
            " original_sha256 = NULL, segment = NULL, offset = NULL"
            " WHERE segment = ? AND (offset + bytes + 511) / 512 * 512 > ?",
            segment,
            size,
        ).rowcount
        self._execute(f"UPDATE segments SET bytes = ({end}) WHERE number = ?1", segment)
        return lost

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows of a query."""
        rows = self._execute(sql, *values)
        with self._errors():
            # Not `yield from`: it would close the cursor of a database that may be closed by then.
            for row in rows:  # noqa: UP028
                yield row

    def close(self) -> None:
        """Fold the write-ahead log into the file and close it."""
        try:
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # A full disk or a reader: then the log stays beside the file, which is just as good.
        finally:
            self._db.close()


class _Translating:
    """Translates SQLite's errors to ours."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise self._ledger._translate(error) from error
        if isinstance(error, UnicodeDecodeError):
            raise damaged(f"{self._ledger.path} is damaged ({error}).") from error
