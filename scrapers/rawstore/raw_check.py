"""Verification of the raw store: whether its segments contain what the ledger promises. Never writes.

A damaged ledger may contain anything: whatever goes wrong while it is read is a LedgerError.
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

from pipeline.core.contracts import URL_STATES
from pipeline.core.errors import ContractError
from pipeline.core.storage import storage_error
from scrapers.rawstore.segment_hash import SCHEME, Member, SegmentHash, hash_segment, read_members
from scrapers.rawstore.segments import segment_name
from scrapers.rawstore.summary import content_digest

_PLACES = """
SELECT segment, offset, bytes, sha256, 0, form, rank, version FROM urls WHERE segment >= 0
UNION ALL
SELECT segment, offset, bytes, sha256, 1, form, rank, version FROM versions WHERE segment >= 0
ORDER BY 1, 2
"""


class LedgerError(ContractError):
    """A ledger that can't be read: it is missing or damaged."""


class HeldImage(NamedTuple):
    """An image whose bytes the ledger promises; `is_old` for an earlier version of a changed image."""

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
    """The digest of a ledger's content, its source, its URLs by state, the hashes of its closed segments."""

    content: str
    source: str
    states: Counter[str]
    closed: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment as it is found: its length and hash, and the images whose bytes are missing."""

    number: int
    bytes: int | None
    sha256: str | None
    lost: list[HeldImage] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its file name."""
        return segment_name(self.number)


class ReadOnlyLedger:
    """A connection that reads a ledger, even in a read-only folder."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows of a query."""
        # Not `yield from`: it would close the cursor of a database that may be closed by then.
        for row in self._connection.execute(sql, values):  # noqa: UP028
            yield row


@contextlib.contextmanager
def open_read_only(path: Path) -> Iterator[ReadOnlyLedger]:
    """Read the ledger at `path`; raises LedgerError if it is missing or damaged."""
    if not path.is_file():
        raise LedgerError("is missing")
    with contextlib.ExitStack() as stack:
        try:
            yield ReadOnlyLedger(_connect(path, stack))
        except _ODDITIES as error:
            raise LedgerError(f"is damaged ({type(error).__name__}: {error})") from error


# What reading a damaged database may raise besides its own errors: values have other types and sizes.
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
        # Reading a write-ahead log needs a file beside it, which can't be created here.
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
    """The facts of the ledger; its pages are checked, too."""
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


def read_segments(
    ledger: ReadOnlyLedger, folder: Path, expected: Mapping[str, str]
) -> Iterator[Segment]:
    """Every segment that contains images, read from beginning to end.

    `expected` are their hashes by name: each is hashed by the scheme of its contract version.
    """
    images = (HeldImage(*row) for row in ledger.query(_PLACES))  # type: ignore[arg-type]
    for number, held in groupby(images, key=lambda image: image.segment):
        name = segment_name(number)
        yield check_segment(folder / name, number, held, like=expected.get(name))


def check_segment(
    path: Path, number: int, held: Iterator[HeldImage], *, like: str | None = None
) -> Segment:
    """Hash a segment and every image in it; `held` are sorted by position.

    Raises StorageError for a segment that exists and can't be read.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            whole = SegmentHash()
            doubtful = list(_unmatched(held, read_members(file, whole)))
            lost = [image for image in doubtful if not _is_there(file, image, size)]
        is_old = like is not None and not like.startswith(SCHEME)
        sha256 = hash_segment(path, like=like) if is_old else str(whole)
        return Segment(number=number, bytes=size, sha256=sha256, lost=lost)
    except FileNotFoundError:
        return Segment(number=number, bytes=None, sha256=None, lost=list(held))
    except OSError as error:
        raise storage_error(error, path) from error


def _unmatched(held: Iterator[HeldImage], members: Iterator[Member]) -> Iterator[HeldImage]:
    """Images of the ledger that are not members of the segment; both are sorted by position."""
    image = next(held, None)
    for member in members:
        while image is not None and image.offset <= member.offset:
            if (image.offset, image.size, image.sha256) != member:
                yield image
            image = next(held, None)
    if image is not None:
        yield image
        yield from held


def _is_there(file: IO[bytes], image: HeldImage, size: int) -> bool:
    """Whether the bytes of an image are those of the ledger, whatever surrounds them."""
    if not 0 < image.size <= size - image.offset or image.offset < 0:
        return False
    file.seek(image.offset)
    return hashlib.sha256(file.read(image.size)).digest() == image.sha256
