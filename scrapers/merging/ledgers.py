"""Ledgers merged by URL, in SQL, so that memory doesn't depend on their size.

Of a URL in several ledgers one row is kept, with its bytes:

- `opted_out` and `done`: the one that was requested last; at the same second `opted_out`.
- Otherwise the first of: done, opted_out, hash_mismatch, missing, failed (truncated, not_an_image), pending;
  of the same state the one that was requested last, then that of the first workspace.

Its attempts are added up and its first request is the earliest. Section, rank, extra and first caption are
those of the first workspace that has the URL; the captions of all are kept. Counts of latencies are added up.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from pipeline.core.contracts import UrlState
from pipeline.core.errors import StorageError
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.segments import SegmentState

_SCORES: dict[UrlState, int] = {
    "done": 5, "opted_out": 4, "hash_mismatch": 3, "missing": 2, "failed": 1, "truncated": 1,
    "not_an_image": 1, "pending": 0,
}  # fmt: skip


def _score(row: str) -> str:
    cases = " ".join(f"WHEN {STATE_NUMBER[state]} THEN {score}" for state, score in _SCORES.items())
    return f"CASE {row}.state {cases} END"


_DONE, _OPTED_OUT = STATE_NUMBER["done"], STATE_NUMBER["opted_out"]
# Whether row n of a ledger that is added replaces row o.
_BETTER = f"""
CASE WHEN n.state = {_OPTED_OUT} AND o.state = {_DONE} THEN n.last_time >= o.last_time
  WHEN n.state = {_DONE} AND o.state = {_OPTED_OUT} THEN n.last_time > o.last_time
  WHEN {_score("n")} <> {_score("o")} THEN {_score("n")} > {_score("o")}
  ELSE n.last_time > o.last_time END
"""
_STEPS = (
    "CREATE TEMP TABLE ids(old INTEGER PRIMARY KEY, new INTEGER NOT NULL, is_new INTEGER NOT NULL)",
    """INSERT INTO ids SELECT s.id, coalesce(f.id, s.id + (SELECT coalesce(max(id), 0) FROM forms)),
      f.id IS NULL FROM added.forms s LEFT JOIN forms f ON f.key = s.key""",
    """INSERT INTO forms SELECT i.new, s.key, coalesce(p.new, i.new), s.section, s.caption, s.masked,
      s.num_ranks, s.prefix, s.suffix, s.rank, s.extra
    FROM added.forms s JOIN ids i ON i.old = s.id LEFT JOIN ids p ON p.old = s.plan
    WHERE i.is_new ORDER BY i.new""",
    """INSERT OR IGNORE INTO captions SELECT i.new, c.caption FROM (
      SELECT form, caption FROM added.captions UNION ALL SELECT id, caption FROM added.forms) c
    JOIN ids i ON i.old = c.form JOIN forms f ON f.id = i.new WHERE c.caption <> f.caption""",
    f"""CREATE TEMP TABLE chosen AS SELECT i.new AS form, n.form AS old, n.rank AS rank
    FROM added.urls n JOIN ids i ON i.old = n.form
    LEFT JOIN urls o ON o.form = i.new AND o.rank = n.rank WHERE o.form IS NULL OR {_BETTER}""",
    """CREATE TEMP TABLE shared AS SELECT i.new AS form, n.rank AS rank,
      o.attempts + n.attempts AS attempts, min(o.first_time, n.first_time) AS first_time
    FROM added.urls n JOIN ids i ON i.old = n.form JOIN urls o ON o.form = i.new AND o.rank = n.rank""",
    """CREATE TEMP TABLE places AS SELECT a.number AS old, coalesce(f.number,
      a.number + (SELECT coalesce(max(number), 0) FROM files)) AS new, a.path, a.bytes, a.mtime
    FROM added.files a LEFT JOIN files f ON f.path = a.path""",
    """INSERT INTO files SELECT new, path, bytes, mtime FROM places
    WHERE path NOT IN (SELECT path FROM files)""",
    "DELETE FROM versions WHERE (form, rank) IN (SELECT form, rank FROM chosen)",
    "DELETE FROM absences WHERE (form, rank) IN (SELECT form, rank FROM chosen)",
    """INSERT OR REPLACE INTO urls SELECT c.form, n.rank, n.state, n.status_code, n.reason, n.attempts,
      n.etag, n.last_modified, n.final_url, n.sha256, n.bytes,
      CASE WHEN n.segment < 0 THEN -(SELECT new FROM places WHERE old = -n.segment)
        ELSE n.segment + :first END, n.offset, n.version,
      n.first_time, n.last_time, n.evidence, n.original_sha256
    FROM chosen c JOIN added.urls n ON n.form = c.old AND n.rank = c.rank""",
    """INSERT INTO versions SELECT c.form, v.rank, v.version, v.etag, v.last_modified, v.sha256, v.bytes,
      v.segment + :first, v.offset, v.original_sha256
    FROM chosen c JOIN added.versions v ON v.form = c.old AND v.rank = c.rank""",
    """INSERT INTO absences SELECT c.form, a.rank, a.refreshes
    FROM chosen c JOIN added.absences a ON a.form = c.old AND a.rank = c.rank""",
    """UPDATE urls SET attempts = s.attempts, first_time = s.first_time
    FROM shared s WHERE urls.form = s.form AND urls.rank = s.rank""",
    "DROP TABLE ids",
    "DROP TABLE chosen",
    "DROP TABLE shared",
    "DROP TABLE places",
)
_HAS_LATENCIES = "SELECT 1 FROM added.sqlite_master WHERE name = 'host_latencies'"
_ADD_LATENCIES = tuple(
    f"""INSERT INTO {table} SELECT * FROM added.{table} WHERE true
    ON CONFLICT({by}, step) DO UPDATE SET requests = requests + excluded.requests"""
    for table, by in (("latencies", "minute"), ("host_latencies", "host"))
)


class LedgerMerge:
    """A new ledger at `path` that others are added to, each in one transaction."""

    def __init__(self, path: Path, source: str) -> None:
        self._path = path
        Ledger(path, source).close()
        self._db = sqlite3.connect(path, isolation_level=None)
        # It is thrown away if anything fails before its end.
        self._db.execute("PRAGMA journal_mode = DELETE")
        self._db.execute("PRAGMA synchronous = OFF")
        self._last_segment = -1

    def __enter__(self) -> LedgerMerge:
        return self

    def add(self, ledger: Path, *, first_segment: int) -> None:
        """Add the rows of a ledger, whose segments get the numbers from `first_segment` on."""
        try:
            self._db.execute("ATTACH ? AS added", (str(ledger),))
            self._db.execute("BEGIN")
            # Written before there were any, it has no such tables.
            has_latencies = self._db.execute(_HAS_LATENCIES).fetchone() is not None
            for step in (*_STEPS, *_ADD_LATENCIES) if has_latencies else _STEPS:
                self._db.execute(step, {"first": first_segment} if ":first" in step else {})
            self._db.execute("COMMIT")
            self._db.execute("DETACH added")
        except sqlite3.Error as error:
            raise StorageError(f"Can't merge {ledger} into {self._path}: {error}.") from error

    def add_segments(self, states: Iterable[SegmentState]) -> None:
        """Add the segments of the ledger that was added last; all are closed."""
        for state in states:
            self._db.execute("INSERT INTO segments VALUES(?, ?, ?)", state)
            self._last_segment = max(self._last_segment, state.number)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it; if nothing failed, it is on disk and can be scraped on."""
        try:
            if error is None:
                begun = ("last_segment_begun", str(self._last_segment))
                self._db.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", begun)
        finally:
            self._db.close()
        if error is None:
            _sync(self._path)


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
