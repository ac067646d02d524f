"""The index of an archive as far as it was asked for, kept in `raw/archive.sqlite`.

A page and the key of the next one are committed together, so that a killed run goes on where it was.
It is a copy of what the archive says and can be thrown away.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.core.errors import StorageError
from scrapers.rawstore.locked_database import BUSY_S, Patience
from scrapers.wayback.captures import (
    Capture,
    IndexPage,
    IndexRow,
    may_be_image,
    name_of,
    replay_address,
)

logger = logging.getLogger(__name__)

# A newest capture that is broken makes way for so many older ones.
MAX_CAPTURES = 4

# Under NOCASE, names that the archive does not tell apart lie together.
_TABLES = """
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS prefixes(
  id INTEGER PRIMARY KEY, prefix TEXT NOT NULL UNIQUE, since INTEGER NOT NULL,
  resume_key TEXT, is_complete INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS captures(
  name TEXT NOT NULL COLLATE NOCASE, timestamp TEXT NOT NULL, original TEXT NOT NULL,
  digest TEXT, prefix INTEGER NOT NULL,
  PRIMARY KEY(name, timestamp, original)) WITHOUT ROWID;
"""
_FIND = """
SELECT name, timestamp, original, digest FROM captures WHERE name = ? ORDER BY timestamp DESC, original
"""


class CaptureIndex:
    """What the archive at `base` holds, by name. Raises StorageError when the disk refuses."""

    def __init__(self, path: Path, base: str) -> None:
        self.path = path
        self.base = base
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise self._translate(error) from error
            logger.warning("%s is broken (%s): the archive is asked again.", path, error)
            path.unlink()
            self._open()

    def _open(self) -> None:
        self._patience = Patience(self.path)
        self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        self._patience.wait_for(self._prepare)
        found = self._db.execute("SELECT value FROM meta WHERE name = 'base'").fetchone()
        if found is None or found[0] != self.base:
            with self._transaction():
                self._db.execute("DELETE FROM captures")
                self._db.execute("DELETE FROM prefixes")
                self._db.execute("INSERT OR REPLACE INTO meta VALUES('base', ?)", (self.base,))

    def _prepare(self) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA cache_size = -16384")
        self._db.executescript(_TABLES)

    def _translate(self, error: sqlite3.Error) -> StorageError:
        return StorageError(
            f"Can't read or write {self.path}: {error}. What was fetched before is safe; make room or "
            "delete the file, and give the same command again."
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

    def __len__(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM captures").fetchone()[0])

    # --- Filling ----------------------------------------------------------------------------------

    def begin(self, prefix: str, *, newer_than: int = 0) -> str | None:
        """Where to go on with a prefix: a resume key, "" for its beginning, None if all is here.

        What was begun at `newer_than` (seconds) or before is forgotten and asked for anew.
        """
        found = self._db.execute(
            "SELECT id, since, resume_key, is_complete FROM prefixes WHERE prefix = ?", (prefix,)
        ).fetchone()
        if found is not None and found[1] > newer_than:
            return None if found[3] else found[2] or ""
        with self._transaction():
            if found is not None:
                self._db.execute("DELETE FROM captures WHERE prefix = ?", (found[0],))
                self._db.execute("DELETE FROM prefixes WHERE id = ?", (found[0],))
            self._db.execute(
                "INSERT INTO prefixes(prefix, since) VALUES(?, ?)", (prefix, int(time.time()))
            )
        return ""

    def add(self, prefix: str, page: IndexPage) -> None:
        """Keep a page of the index of `prefix` and how to go on from it."""
        with self._transaction():
            (number,) = self._db.execute(
                "SELECT id FROM prefixes WHERE prefix = ?", (prefix,)
            ).fetchone()
            self._db.executemany(
                "INSERT OR REPLACE INTO captures VALUES(?, ?, ?, ?, ?)", _rows(page.rows, number)
            )
            self._db.execute(
                "UPDATE prefixes SET resume_key = ?, is_complete = ? WHERE id = ?",
                (page.resume_key, page.resume_key is None, number),
            )

    # --- Asking -----------------------------------------------------------------------------------

    def captures(self, url: str) -> tuple[Capture, ...]:
        """The captures of a URL that may be good, newest first."""
        name = name_of(url)
        rows = self._db.execute(_FIND, (name,)).fetchall()
        shared = any(row[0] != name for row in rows)
        own = [row for row in rows if row[0] == name][:MAX_CAPTURES]
        return tuple(
            Capture(
                replay_address(self.base, IndexRow(timestamp, original, "", digest)),
                original,
                digest,
                shared,
            )
            for _, timestamp, original, digest in own
        )


def _rows(rows: Iterable[IndexRow], prefix: int) -> Iterator[tuple[object, ...]]:
    for row in rows:
        if may_be_image(row.mimetype):
            yield name_of(row.original), row.timestamp, row.original, row.digest, prefix
