"""The raw store looked through and never written to: whether its segments hold what the ledger promises.

A ledger that is damaged may hold anything: whatever goes wrong while it is read is a LedgerError.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.contracts import URL_STATES
from pipeline.errors import ContractError
from pipeline.storage import storage_error
from scrapers.segments import segment_name
from scrapers.summary import content_digest

_CHUNK_BYTES = 1 << 20
_PLACES = """
SELECT segment, offset, bytes, sha256, 0, form, rank, version FROM urls WHERE segment IS NOT NULL
UNION ALL
SELECT segment, offset, bytes, sha256, 1, form, rank, version FROM versions WHERE segment IS NOT NULL
ORDER BY 1, 2
"""


class LedgerError(ContractError):
    """A ledger that can't be read: it is missing or damaged."""


class HeldImage(NamedTuple):
    """An image whose bytes the ledger promises; `is_old` for an earlier version of one that changed."""

    segment: int
    offset: int
    size: int
    sha256: bytes
    is_old: bool
    form: int
    rank: int
    version: int


@dataclass(frozen=True, kw_only=True)
class LedgerFacts:
    """What a ledger says: the digest of its content, its source, its URLs by state, its closed segments."""

    content: str
    source: str
    states: Counter[str]
    closed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment as it is found: its length and hash, and the images whose bytes are not there."""

    number: int
    bytes: int | None
    sha256: str | None
    lost: list[HeldImage] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its file name."""
        return segment_name(self.number)


class ReadOnlyLedger:
    """A connection that reads a ledger, also one in a folder that can't be written to."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """Rows of a read."""
        # Not `yield from`: it would close the cursor of a database that may be closed by then.
        for row in self._connection.execute(sql, values):  # noqa: UP028
            yield row


@contextlib.contextmanager
def open_read_only(path: Path) -> Iterator[ReadOnlyLedger]:
    """Read the ledger at `path`; raises LedgerError for one that is missing or damaged."""
    if not path.is_file():
        raise LedgerError("is missing")
    with contextlib.ExitStack() as stack:
        try:
            yield ReadOnlyLedger(_connect(path, stack))
        except _ODDITIES as error:
            raise LedgerError(f"is damaged ({type(error).__name__}: {error})") from error


# What a damaged database makes of our reads, beside errors of its own: values of other types and sizes.
_ODDITIES = (
    sqlite3.Error,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    OverflowError,
    OSError,
    MemoryError,
)


def _connect(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    try:
        return _open(path, stack)
    except sqlite3.OperationalError:
        # A write-ahead log is read with the help of a file beside it, which can't be made here.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copyfile(part, folder / part.name)
        return _open(folder / path.name, stack)


def _open(path: Path, stack: contextlib.ExitStack) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    stack.callback(connection.close)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    return connection


def read_ledger(ledger: ReadOnlyLedger) -> LedgerFacts:
    """What the ledger says; its pages are checked, too."""
    (checked,) = ledger.query("PRAGMA quick_check(1)")
    if checked != ("ok",):
        raise ValueError(f"its pages are damaged: {checked[0]}")
    states = Counter(dict.fromkeys(URL_STATES, 0))
    for state, number in ledger.query("SELECT state, count(*) FROM urls GROUP BY state"):
        states[URL_STATES[int(str(state))]] = int(str(number))
    sources = [
        str(value) for (value,) in ledger.query("SELECT value FROM meta WHERE name = 'source'")
    ]
    closed = ledger.query("SELECT number, sha256 FROM segments WHERE sha256 IS NOT NULL")
    return LedgerFacts(
        content=content_digest(ledger),
        source="".join(sources),
        states=states,
        closed={segment_name(int(str(number))): str(sha256) for number, sha256 in closed},
    )


def read_segments(ledger: ReadOnlyLedger, folder: Path) -> Iterator[Segment]:
    """Every segment in which images lie, read once from beginning to end."""
    images = (HeldImage(*row) for row in ledger.query(_PLACES))  # type: ignore[arg-type]
    for number, held in groupby(images, key=lambda image: image.segment):
        yield check_segment(folder / segment_name(number), number, held)


def check_segment(path: Path, number: int, held: Iterator[HeldImage]) -> Segment:
    """Hash a segment and every image in it; `held` are sorted by place.

    Raises StorageError for a segment that is there and can't be read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            whole = hashlib.sha256()
            lost = [image for image in held if not _is_there(file, image, size, whole)]
            while chunk := file.read(_CHUNK_BYTES):
                whole.update(chunk)
        return Segment(number=number, bytes=size, sha256=whole.hexdigest(), lost=lost)
    except FileNotFoundError:
        return Segment(number=number, bytes=None, sha256=None, lost=list(held))
    except OSError as error:
        raise storage_error(error, path) from error


def _is_there(file: IO[bytes], image: HeldImage, size: int, whole: hashlib._Hash) -> bool:
    """Read on to the end of an image; whether its bytes are those of the ledger."""
    if not 0 < image.size <= size - image.offset or image.offset < 0:
        return False
    if image.offset < file.tell():  # it overlaps the one before: one of them is wrong
        before = file.tell()
        file.seek(image.offset)
        data = file.read(image.size)
        file.seek(before)
    else:
        while (gap := image.offset - file.tell()) > 0:
            whole.update(file.read(min(gap, _CHUNK_BYTES)))
        data = file.read(image.size)
        whole.update(data)
    return hashlib.sha256(data).digest() == image.sha256
