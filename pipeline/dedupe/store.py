"""The stage's working store: the ledger, read only, beside the inspections made so far.

`dedupe/work.sqlite` lives while the stage works: each finished part is committed, so a run that was
killed goes on where it was. At the end its inspections are written to `inspections.parquet`, sorted,
and it goes; the next run starts from that table. SQLite sorts and joins on disk, so memory stays flat
however long the ledger is.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.dedupe.captions import read_caption
from pipeline.dedupe.inspection import INSPECTION_VERSION, Inspection, Place
from pipeline.errors import ContractError, StorageError

_FIELDS = Inspection._fields
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS inspections (
    {", ".join(_FIELDS)}, PRIMARY KEY (sha256)
) WITHOUT ROWID
"""
_INSERT = f"INSERT OR REPLACE INTO inspections VALUES ({', '.join('?' * len(_FIELDS))})"

# The images to be inspected: each hash once, where it lies first.
_FIND_WORK = """
CREATE TEMP TABLE work AS
SELECT sha256, segment, offset, bytes, masked FROM (
    SELECT sha256, segment, offset, bytes,
           ROW_NUMBER() OVER (PARTITION BY sha256 ORDER BY segment, offset) AS turn,
           MAX(COALESCE(masked, 0)) OVER (PARTITION BY sha256) AS masked
    FROM raw.items WHERE state = 'done'
) AS places
WHERE turn = 1 AND NOT EXISTS (
    SELECT 1 FROM main.inspections AS old WHERE old.sha256 = places.sha256
    AND (old.bands IS NOT NULL OR NOT places.masked OR old.status != 'ok')
)
ORDER BY segment, offset
"""

# What an inspection would not say today: crashes are tried again, the limit may have moved.
_FORGET = """
DELETE FROM inspections WHERE status = 'decoder_crashed'
OR (width IS NOT NULL AND (width * height > :max_pixels) != (status = 'too_large'))
"""

_ROWS = """
SELECT i.key, i.url, i.source, i.section, i.caption, i.rank, i.masked, i.state, i.reason,
       i.segment, i.offset, i.bytes, i.sha256,
       n.status, n.detail, n.format, n.width, n.height, n.mode, n.has_alpha, n.pixel_sha256,
       n.phash, n.mean_red, n.mean_green, n.mean_blue, n.is_blank, n.bands
FROM raw.items AS i LEFT JOIN main.inspections AS n ON i.state = 'done' AND n.sha256 = i.sha256
ORDER BY i.key
"""

# Inspections of what the ledger has today, as a run from scratch would have them.
_CURRENT = f"""
SELECT {", ".join(f"n.{name}" for name in _FIELDS[:-1])},
       CASE WHEN MAX(COALESCE(i.masked, 0)) THEN n.bands END
FROM main.inspections AS n JOIN raw.items AS i ON i.sha256 = n.sha256 AND i.state = 'done'
GROUP BY n.sha256 ORDER BY n.sha256
"""

_CAPTIONS = """
SELECT caption_id(caption), section, caption FROM (SELECT DISTINCT section, caption FROM raw.items)
ORDER BY 1, 2, 3
"""

_MASKED = """
SELECT i.section, caption_id(i.caption), n.bands FROM raw.items AS i
JOIN main.inspections AS n ON n.sha256 = i.sha256
WHERE i.state = 'done' AND i.masked AND n.bands IS NOT NULL ORDER BY 1, 2, 3
"""


class Row(NamedTuple):
    """A row of the ledger with the inspection of its bytes (null where there is none).

    `phash` is as SQLite keeps it, signed: modulo 2**64 it is the hash.
    """

    key: str
    url: str
    source: str
    section: str
    caption: str | None
    rank: int | None
    masked: int | None
    state: str
    reason: str | None
    segment: str | None
    offset: int | None
    length: int | None
    sha256: str | None
    status: str | None
    detail: str | None
    format: str | None
    width: int | None
    height: int | None
    mode: str | None
    has_alpha: int | None
    pixel_sha256: str | None
    phash: int | None
    mean_red: float | None
    mean_green: float | None
    mean_blue: float | None
    is_blank: int | None
    bands: bytes | None


class Store:
    """One connection to the working store with the ledger attached; use it in a `with`."""

    def __init__(self, path: Path | None, ledger: Path) -> None:
        """Open the store at `path`; None: one in memory, to look at the ledger alone."""
        if not ledger.exists():
            raise ContractError(
                f"{ledger} is missing: nothing was scraped yet. Run `scrape` first."
            )
        self._path, self._ledger = path or Path(":memory:"), ledger
        self._connection = _open(path) if path else sqlite3.connect(":memory:", uri=True)
        _attach(self._connection, ledger)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise StorageError(
                f"Can't read {self._ledger} or write {self._path}: {error}."
            ) from error
        if isinstance(error, sqlite3.DatabaseError):
            raise ContractError(
                f"{self._ledger} is damaged ({error}). Bring back a whole copy of it."
            ) from error

    def destroy(self) -> None:
        """Close the store and remove its files."""
        self._connection.close()
        remove_store(self._path)

    def count_rows(self) -> int:
        """Rows in the ledger."""
        return int(self._connection.execute("SELECT COUNT(*) FROM raw.items").fetchone()[0])

    def digest_rows(self) -> str:
        """A hash of what this stage reads of the ledger, whatever the order of its rows."""
        digest = hashlib.sha256()
        rows = self._connection.execute(
            "SELECT key, url, source, section, caption, rank, masked, state, reason, segment, "
            "offset, bytes, sha256 FROM raw.items ORDER BY key"
        )
        for row in rows:
            digest.update(repr(row).encode())
        return digest.hexdigest()

    def add(self, inspections: Iterable[Inspection]) -> None:
        """Keep inspections, for good once this returns."""
        with self._connection:
            self._connection.executemany(_INSERT, map(_with_signed_hash, inspections))

    def add_missing(self, inspections: Iterable[Inspection]) -> None:
        """Keep inspections of files that have none yet."""
        with self._connection:
            statement = _INSERT.replace("OR REPLACE", "OR IGNORE")
            self._connection.executemany(statement, map(_with_signed_hash, inspections))

    def forget_outdated(self, *, max_pixels: int) -> None:
        """Drop inspections that would come out otherwise today."""
        with self._connection:
            self._connection.execute(_FORGET, {"max_pixels": max_pixels})

    def find_work(self) -> int:
        """List the images without an inspection and return how many there are."""
        self._connection.execute("DROP TABLE IF EXISTS temp.work")
        self._connection.execute(_FIND_WORK)
        return int(self._connection.execute("SELECT COUNT(*) FROM temp.work").fetchone()[0])

    def read_work(self) -> Iterator[Place]:
        """The images that `find_work` listed, in the order in which they lie."""
        cursor = self._connection.execute(
            "SELECT sha256, segment, offset, bytes, masked FROM temp.work ORDER BY rowid"
        )
        for sha256, segment, offset, size, masked in cursor:
            yield Place(sha256, segment, offset, size, bool(masked))

    def read_rows(self) -> Iterator[Row]:
        """Every row of the ledger, sorted by key, with its inspection."""
        return map(Row._make, self._connection.execute(_ROWS))

    def read_inspections(self) -> Iterator[Inspection]:
        """The inspections of the ledger's images, sorted by hash."""
        for values in self._connection.execute(_CURRENT):
            found = Inspection._make(values)
            yield found if found.phash is None else found._replace(phash=found.phash % 2**64)

    def read_masked(self) -> Iterator[tuple[str, str, bytes]]:
        """(section, caption id, bands) of the masked images that could be decoded, sorted."""
        self._connection.create_function("caption_id", 1, _caption_id, deterministic=True)
        yield from self._connection.execute(_MASKED)

    def read_captions(self) -> Iterator[tuple[str, str, str]]:
        """Each (caption id, section, caption as the source gives it) once, sorted."""
        self._connection.create_function("caption_id", 1, _caption_id, deterministic=True)
        yield from self._connection.execute(_CAPTIONS)


def remove_store(path: Path) -> None:
    """Remove a working store, if there is one."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _with_signed_hash(inspection: Inspection) -> Inspection:
    """SQLite's integers have a sign."""
    phash = inspection.phash
    return inspection._replace(phash=phash - 2**64) if phash and phash >= 2**63 else inspection


def _caption_id(text: str | None) -> str:
    return read_caption(text).caption_id


def _open(path: Path) -> sqlite3.Connection:
    """Open the store; one of another version or cut off by a power failure is begun anew."""
    for _ in range(2):
        connection = sqlite3.connect(path.absolute().as_uri(), uri=True)
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -32768")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version in (0, INSPECTION_VERSION):
                connection.execute(f"PRAGMA user_version = {INSPECTION_VERSION}")
                connection.execute(_SCHEMA)
                return connection
        connection.close()
        remove_store(path)
    raise StorageError(f"Can't make the working store {path}. Is its folder writable?")


def _attach(connection: sqlite3.Connection, ledger: Path) -> None:
    try:
        connection.execute("ATTACH ? AS raw", (f"{ledger.absolute().as_uri()}?mode=ro",))
        connection.execute("SELECT key FROM raw.items LIMIT 1")
    except sqlite3.DatabaseError as error:
        connection.close()
        raise ContractError(
            f"{ledger} has no view `items` that can be read ({error}). "
            "It was made by another version, or damaged: scrape again with this one."
        ) from error
