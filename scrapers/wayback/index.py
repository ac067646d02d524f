"""The part of an archive's index that was queried, kept in `raw/archive.sqlite`.

A page and the position of the next one are committed together, so that a killed run resumes there. The file
is a copy of the index and can be deleted.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import StorageError
from scrapers.rawstore.locked_database import BUSY_S, Patience
from scrapers.wayback.captures import Capture, may_be_image, name_of, replay_address
from scrapers.wayback.listing import Cursor, Step
from scrapers.wayback.query import Endpoints, IndexRow

logger = logging.getLogger(__name__)

# If the newest captures are broken, this many older ones are tried.
MAX_CAPTURES = 4

_FORMAT = "2"
# Under NOCASE, names that the archive doesn't distinguish are adjacent.
_TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prefixes(
  id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE, since INTEGER NOT NULL,
  cursor TEXT, is_complete INTEGER NOT NULL DEFAULT 0, doubt TEXT);
CREATE TABLE IF NOT EXISTS captures(
  name TEXT NOT NULL COLLATE NOCASE, timestamp TEXT NOT NULL, original TEXT NOT NULL,
  digest TEXT, prefix INTEGER NOT NULL,
  PRIMARY KEY(name, timestamp, original)) WITHOUT ROWID;
"""
_FIND = """
SELECT name, timestamp, original, digest FROM captures WHERE name = ? ORDER BY timestamp DESC, original
"""


class CaptureIndex:
    """The captures of the archive at `base`, by name. Raises StorageError if the disk fails."""

    def __init__(self, path: Path, base: str) -> None:
        self.path = path
        self.base = base
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise self._translate(error) from error
            logger.warning("%s is broken (%s): the archive is queried again.", path, error)
            path.unlink()
            self._open()

    def _open(self) -> None:
        self._patience = Patience(self.path)
        self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        self._patience.wait_for(self._prepare)
        if self._recall("base") != self.base:
            with self._transaction():
                for table in ("captures", "prefixes", "meta"):
                    self._db.execute(f"DELETE FROM {table}")
                self._keep("base", self.base)
                self._keep("format", _FORMAT)

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA cache_size = -16384")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
        )
        if self._recall("format") != _FORMAT:
            for table in ("captures", "prefixes", "meta"):
                self._db.execute(f"DROP TABLE IF EXISTS {table}")
        self._db.executescript(_TABLES)

    def _recall(self, name: str) -> str | None:
        found = self._db.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def _keep(self, name: str, value: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (name, value))

    @property
    def endpoints(self) -> Endpoints | None:
        """The endpoints that were found for the archive, None if they are not known yet."""
        text = self._recall("endpoints")
        return None if text is None else Endpoints(*json.loads(text))

    def keep_endpoints(self, endpoints: Endpoints) -> None:
        """Remember the endpoints of the archive."""
        with self._transaction():
            self._keep("endpoints", json.dumps(endpoints))

    def keep_tags(self, tags: set[str]) -> set[str]:
        """Remember values of X-Robots-Tag that are the archive's own; returns all that are remembered."""
        known = set(json.loads(self._recall("tags") or "[]"))
        if tags - known:
            with self._transaction():
                self._keep("tags", json.dumps(sorted(tags | known)))
        return tags | known

    @property
    def doubts(self) -> dict[str, str]:
        """What is uncertain, by prefix."""
        sql = "SELECT prefix, doubt FROM prefixes WHERE doubt IS NOT NULL ORDER BY prefix"
        return dict(self._db.execute(sql).fetchall())

    def _translate(self, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"Can't read or write {self.path}: {error}. What was fetched before is safe; make room or "
            "delete the file, and run the same command again."
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._patience.wait_for(lambda: self._db.execute("BEGIN IMMEDIATE"))
            yield
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._translate(error) from error

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def counts(self, prefixes: Iterable[str]) -> dict[str, int]:
        """The number of captures for each of these prefixes."""
        sql = (
            "SELECT p.prefix, count(c.name) FROM prefixes p LEFT JOIN captures c ON c.prefix = p.id "
            "GROUP BY p.id"
        )
        found = dict(self._db.execute(sql).fetchall())
        return {prefix: found.get(prefix, 0) for prefix in prefixes}

    # --- Filling ----------------------------------------------------------------------------------

    def begin(self, prefix: str, *, newer_than: int = 0) -> Cursor | None:
        """Where to resume a prefix, None if all of it is here.

        What was begun at `newer_than` (seconds) or earlier is deleted and queried again.
        """
        found = self._db.execute(
            "SELECT id, since, cursor, is_complete FROM prefixes WHERE prefix = ?", (prefix,)
        ).fetchone()
        if found is not None and found[1] > newer_than:
            if found[3]:
                return None
            return Cursor.load(found[2]) if found[2] else Cursor()
        with self._transaction():
            if found is not None:
                self._db.execute("DELETE FROM captures WHERE prefix = ?", (found[0],))
                self._db.execute("DELETE FROM prefixes WHERE id = ?", (found[0],))
            self._db.execute(
                "INSERT INTO prefixes(prefix, since) VALUES(?, ?)", (prefix, int(time.time()))
            )
        return Cursor()

    def forget_all(self) -> None:
        """Delete everything, so that the next run queries it again."""
        with self._transaction():
            self._db.execute("DELETE FROM meta WHERE name = 'endpoints'")
            self._db.execute("DELETE FROM captures")
            self._db.execute("DELETE FROM prefixes")

    def add(self, prefix: str, step: Step) -> None:
        """Store what was read of `prefix` and where to resume."""
        cursor = step.cursor
        with self._transaction():
            (number,) = self._db.execute(
                "SELECT id FROM prefixes WHERE prefix = ?", (prefix,)
            ).fetchone()
            self._db.executemany(
                "INSERT OR REPLACE INTO captures VALUES(?, ?, ?, ?, ?)", _rows(step.rows, number)
            )
            self._db.execute(
                "UPDATE prefixes SET cursor = ?, is_complete = ?, doubt = coalesce(doubt, ?) WHERE id = ?",
                (cursor and cursor.dump(), cursor is None, step.doubt, number),
            )

    def lacks(self, row: IndexRow) -> bool:
        """Whether a row is not among those that were stored."""
        sql = "SELECT 1 FROM captures WHERE name = ? AND timestamp = ?"
        return self._db.execute(sql, (name_of(row.original), row.timestamp)).fetchone() is None

    # --- Reading ------------------------------------------------------------------------------------

    def captures(self, url: str, *, replay: str) -> tuple[Capture, ...]:
        """The usable captures of a URL, newest first; `replay` is the prefix of their URLs."""
        name = name_of(url)
        rows = self._db.execute(_FIND, (name,)).fetchall()
        shared = any(row[0] != name for row in rows)
        own = [row for row in rows if row[0] == name][:MAX_CAPTURES]
        return tuple(
            Capture(
                replay_address(replay, IndexRow(timestamp, original, "", digest)),
                original,
                digest,
                shared,
            )
            for _, timestamp, original, digest in own
        )


def _rows(rows: Iterable[IndexRow], prefix: int) -> Iterator[tuple[object, ...]]:
    for row in rows:
        if row.is_good and may_be_image(row.mimetype):
            yield name_of(row.original), row.timestamp, row.original, row.digest, prefix
