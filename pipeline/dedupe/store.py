"""The stage's working database: the ledger, read-only, beside the inspections made so far.

`dedupe/work.sqlite` exists while the stage runs: each finished part is committed, so a killed run resumes
where it stopped. At the end its inspections are written to `inspections.parquet`, sorted, and it is removed;
the next run starts from that table. SQLite sorts and joins on disk, so memory stays constant however long the
ledger is.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline.core.captions import read_caption
from pipeline.core.errors import ContractError, StorageError, damaged
from pipeline.core.storage import maker_of
from pipeline.dedupe.inspection import INSPECTION_VERSION, ImageLocation, Inspection
from pipeline.dedupe.row_captions import read_row_captions

_FIELDS = Inspection._fields
_PHASH = _FIELDS.index("phash")
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS inspections (
    {", ".join(_FIELDS)}, PRIMARY KEY (sha256)
) WITHOUT ROWID
"""
_INSERT = f"INSERT OR REPLACE INTO inspections VALUES ({', '.join('?' * len(_FIELDS))})"

# The images of the ledger, each hash once.
_LIST_IMAGES = """
DROP TABLE IF EXISTS temp.images;
DROP TABLE IF EXISTS temp.wanted;
CREATE TEMP TABLE images (sha256, masked, PRIMARY KEY (sha256)) WITHOUT ROWID;
INSERT INTO temp.images
SELECT sha256, MAX(COALESCE(masked, 0)) FROM raw.items WHERE state = 'done'
GROUP BY sha256 ORDER BY sha256;
CREATE TEMP TABLE wanted AS
SELECT sha256, masked FROM temp.images AS i WHERE NOT EXISTS (
    SELECT 1 FROM main.inspections AS old WHERE old.sha256 = i.sha256
    AND (old.bands IS NOT NULL OR NOT i.masked OR old.status != 'ok')
);
"""

# The images to inspect, each at its first location.
_READ_WORK = """
SELECT w.sha256, p.segment, p.offset, p.bytes, w.masked FROM temp.wanted AS w JOIN (
    SELECT sha256, segment, offset, bytes,
           ROW_NUMBER() OVER (PARTITION BY sha256 ORDER BY segment, offset) AS turn
    FROM raw.items WHERE state = 'done' AND sha256 IN (SELECT sha256 FROM temp.wanted)
) AS p ON p.sha256 = w.sha256 AND p.turn = 1
ORDER BY p.segment, p.offset
"""

# Inspections whose result may differ today: crashes are tried again, a decoder may have been installed, the
# pixel limit may have changed.
_FORGET = """
DELETE FROM inspections WHERE status IN ('decoder_crashed', 'missing_decoder')
OR (width IS NOT NULL AND (width * height > :max_pixels) != (status = 'too_large'))
"""

_ROWS = """
SELECT i.key, i.url, i.source, i.section, i.caption, i.rank, i.masked, i.state, i.reason,
       i.segment, i.offset, i.bytes, i.sha256, {captions}, {extra},
       n.status, n.detail, n.format, n.width, n.height, n.mode, n.has_alpha, n.pixel_sha256,
       n.phash, n.mean_red, n.mean_green, n.mean_blue, n.is_blank, n.looks_cut
FROM raw.items AS i LEFT JOIN main.inspections AS n ON i.state = 'done' AND n.sha256 = i.sha256
ORDER BY i.key
"""

# Inspections of the images that the ledger has today, as a run from scratch would yield them.
_CURRENT = f"""
SELECT {", ".join(f"n.{name}" for name in _FIELDS[:-1])},
       CASE WHEN i.masked THEN n.bands END
FROM temp.images AS i CROSS JOIN main.inspections AS n ON n.sha256 = i.sha256
ORDER BY i.sha256
"""

_CAPTIONS = """
SELECT caption_id(caption), section, caption FROM (
    SELECT DISTINCT section, caption FROM raw.items{further}
)
ORDER BY 1, 2, 3
"""

_FURTHER_CAPTIONS = """
    UNION SELECT i.section, each.value FROM raw.items AS i, json_each(i.captions) AS each
    WHERE i.captions IS NOT NULL"""

_MASKED = """
SELECT i.section, first_caption_id(i.caption, {captions}), n.bands FROM raw.items AS i
JOIN main.inspections AS n ON n.sha256 = i.sha256
WHERE i.state = 'done' AND i.masked AND n.bands IS NOT NULL ORDER BY 1, 2, 3
"""


# The columns of `_ROWS` by name. `phash` is signed, as SQLite stores it: modulo 2**64 it is the hash.
ROW_FIELDS = (
    "key", "url", "source", "section", "caption", "rank", "masked", "state", "reason",
    "segment", "offset", "length", "sha256", "captions", "extra",
    "status", "detail", "format", "width", "height", "mode", "has_alpha", "pixel_sha256",
    "phash", "mean_red", "mean_green", "mean_blue", "is_blank", "looks_cut",
)  # fmt: skip
LedgerRow = tuple[Any, ...]
_CHUNK_ROWS = 2_048


class InspectionStore:
    """A connection to the working database with the ledger attached; use it in a `with`."""

    def __init__(self, path: Path | None, ledger: Path) -> None:
        """Open the database at `path`, or one in memory if None, to read only the ledger."""
        if not ledger.exists():
            raise ContractError(
                f"{ledger} is missing: nothing was scraped yet. Run {maker_of(ledger.parent, 'raw')} first."
            )
        if not ledger.is_file():
            raise ContractError(f"{ledger} is not a regular file. Move it away and scrape again.")
        self._path, self._ledger = path or Path(":memory:"), ledger
        self._connection = _open(path) if path else sqlite3.connect(":memory:", uri=True)
        _attach(self._connection, ledger)
        columns = [row[1] for row in self._connection.execute("PRAGMA raw.table_info(items)")]
        # Ledgers of version 1 have one caption per URL and nothing else about it.
        self._has_captions, has_extra = "captions" in columns, "extra" in columns
        self._columns = {
            "captions": "i.captions" if self._has_captions else "NULL",
            "extra": "i.extra" if has_extra else "NULL",
        }

    def __enter__(self) -> InspectionStore:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        damage = self._find_damage(error)
        self._connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"Can't read {self._ledger} or write {self._path}: {error}."
            ) from error
        if damage is not None:
            raise damaged(f"{self._ledger} is damaged ({damage}).") from error
        if isinstance(error, sqlite3.DatabaseError):
            raise ContractError(
                f"{self._ledger} is damaged ({error}). Restore it from a copy, or move "
                f"{self._ledger.parent} away to fetch everything again."
            ) from error

    def _find_damage(self, error: BaseException | None) -> str | None:
        """What is wrong with the ledger if `error` came from values that no column of it should have."""
        if isinstance(error, UnicodeDecodeError):
            return str(error)
        if not isinstance(error, (TypeError, ValueError, LookupError, OverflowError)):
            return None
        try:
            (found,) = self._connection.execute("PRAGMA raw.quick_check(1)").fetchone()
        except sqlite3.Error as failure:
            return str(failure)
        return None if found == "ok" else str(found)

    def count_rows(self) -> int:
        """The number of rows in the ledger."""
        return int(self._connection.execute("SELECT COUNT(*) FROM raw.items").fetchone()[0])

    def digest_rows(self) -> str:
        """A hash of what this stage reads from the ledger, independent of the order of its rows.

        Rows with one caption and no `extra` are hashed as before there were either, and so is a ledger of
        such rows: its tables stay current.
        """
        digest = hashlib.sha256()
        rows = self._connection.execute(
            "SELECT key, url, source, section, caption, rank, masked, state, reason, segment, "
            "offset, bytes, sha256, {captions}, {extra} FROM raw.items AS i "
            "ORDER BY key".format(**self._columns)
        )
        for *row, captions, extra in rows:
            further = () if captions is None and extra is None else (captions, extra)
            digest.update(repr((*row, *further)).encode())
        return digest.hexdigest()

    def add(self, inspections: Iterable[Inspection]) -> None:
        """Store inspections durably."""
        self._insert(_INSERT, inspections)

    def add_missing(self, inspections: Iterable[Inspection]) -> None:
        """Store inspections of files that have none yet."""
        self._insert(_INSERT.replace("OR REPLACE", "OR IGNORE"), inspections)

    def _insert(self, statement: str, inspections: Iterable[Inspection]) -> None:
        rows = ((*i[:_PHASH], _with_sign(i.phash), *i[_PHASH + 1 :]) for i in inspections)
        with self._connection:
            self._connection.executemany(statement, rows)

    def forget_outdated(self, *, max_pixels: int) -> None:
        """Delete inspections whose result may differ today."""
        with self._connection:
            self._connection.execute(_FORGET, {"max_pixels": max_pixels})

    def find_work(self) -> int:
        """List all images and those without an inspection; return the number of the latter."""
        self._connection.executescript(_LIST_IMAGES)
        return int(self._connection.execute("SELECT COUNT(*) FROM temp.wanted").fetchone()[0])

    def read_work(self) -> Iterator[ImageLocation]:
        """The images without an inspection that `find_work` listed, in the order of their locations."""
        for sha256, segment, offset, size, masked in self._connection.execute(_READ_WORK):
            yield ImageLocation(sha256, segment, offset, size, bool(masked))

    def read_rows(self) -> Iterator[list[LedgerRow]]:
        """Every row of the ledger with its inspection (`ROW_FIELDS`), sorted by key, in chunks."""
        cursor = self._connection.execute(_ROWS.format(**self._columns))
        while chunk := cursor.fetchmany(_CHUNK_ROWS):
            yield chunk

    def read_inspections(self) -> Iterator[Inspection]:
        """The inspections of the images that `find_work` listed, sorted by hash; `phash` is signed."""
        return map(Inspection._make, self._connection.execute(_CURRENT))

    def read_masked(self) -> Iterator[tuple[str, str, bytes]]:
        """(section, caption id, bands) of the masked images that could be decoded, sorted."""
        self._connection.create_function(
            "first_caption_id", 2, _first_caption_id, deterministic=True
        )
        yield from self._connection.execute(_MASKED.format(**self._columns))

    def read_captions(self) -> Iterator[tuple[str, str, str]]:
        """Each distinct (caption id, section, caption as in the source), sorted."""
        self._connection.create_function("caption_id", 1, _caption_id, deterministic=True)
        further = _FURTHER_CAPTIONS if self._has_captions else ""
        yield from self._connection.execute(_CAPTIONS.format(further=further))


def remove_store(path: Path) -> None:
    """Remove the files of a working database, if there are any."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _with_sign(phash: int | None) -> int | None:
    """The hash as a signed integer, the only kind that SQLite has."""
    return phash - 2**64 if phash and phash >= 2**63 else phash


def _caption_id(text: str | None) -> str:
    return read_caption(text).caption_id


def _first_caption_id(text: str | None, listed: str | None) -> str:
    return read_row_captions(text, listed).first.caption_id


def _open(path: Path) -> sqlite3.Connection:
    """Open the database; one of another version or damaged by a power failure is created again."""
    for _ in range(2):
        connection = sqlite3.connect(path.absolute().as_uri(), uri=True)
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -8192")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version in (0, INSPECTION_VERSION):
                connection.execute(f"PRAGMA user_version = {INSPECTION_VERSION}")
                connection.execute(_SCHEMA)
                return connection
        connection.close()
        remove_store(path)
    raise StorageError(f"Can't create the working database {path}. Is its folder writable?")


def _attach(connection: sqlite3.Connection, ledger: Path) -> None:
    try:
        connection.execute("ATTACH ? AS raw", (f"{ledger.absolute().as_uri()}?mode=ro",))
        connection.execute("SELECT key FROM raw.items LIMIT 1")
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        connection.close()
        raise ContractError(
            f"{ledger} has no readable view `items` ({error}): it was made by another version, or is "
            f"damaged. Restore it from a copy, or move {ledger.parent} away to fetch everything again."
        ) from error
