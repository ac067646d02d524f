"""Verification of files of the user's: whether they still hold the images that were indexed. Never writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple, Protocol

from pipeline.core.original_files import FileState, read_range, stat_original
from scrapers.rawstore.ledger_schema import STATE_NUMBER

_PLACES = f"""
SELECT x.number, x.path, x.bytes, x.mtime, u.offset, u.bytes, u.sha256
FROM files x JOIN urls u ON u.segment = -x.number AND u.segment < 0
WHERE u.state = {STATE_NUMBER["done"]} ORDER BY x.path, u.offset
"""


class Queried(Protocol):
    """What queries of a ledger need."""

    def query(self, sql: str, *values: object) -> Iterator[tuple[object, ...]]:
        """The rows of a query."""


@dataclass(frozen=True, kw_only=True)
class Original:
    """A file that no longer holds what the ledger describes.

    `found` is a phrase that follows its name; `lost` are the images whose bytes are not there, of `images`.
    """

    number: int
    path: str
    found: str
    lost: int
    images: int


class _Place(NamedTuple):
    number: int
    path: str
    file_bytes: int
    mtime: int
    offset: int
    size: int
    sha256: bytes


def check_originals(ledger: Queried) -> Iterator[Original]:
    """Each file that was moved or changed; all images of every file are read and hashed."""
    if not list(ledger.query("SELECT 1 FROM sqlite_master WHERE name = 'files'")):
        return  # a ledger of an earlier version
    places = (_Place(*row) for row in ledger.query(_PLACES))  # type: ignore[arg-type]
    for _, held in groupby(places, key=lambda place: place.number):
        fault = _check(list(held))
        if fault is not None:
            yield fault


def _check(images: list[_Place]) -> Original | None:
    first = images[0]
    try:
        state = stat_original(first.path)
        lost = sum(not _is_there(image) for image in images)
    except FileNotFoundError:
        return _fault(images, "is missing: it was moved, renamed or deleted", len(images))
    except OSError as error:
        return _fault(images, f"can't be read ({error.strerror or error})", len(images))
    expected = FileState(first.file_bytes, first.mtime)
    if lost:
        return _fault(images, _describe(state, expected), lost)
    if state.bytes != expected.bytes:
        # A store's time may change without the bytes; a length can't.
        return _fault(images, _describe(state, expected), 0)
    return None


def _fault(images: list[_Place], found: str, lost: int) -> Original:
    first = images[0]
    return Original(
        number=first.number, path=first.path, found=found, lost=lost, images=len(images)
    )


def _is_there(image: _Place) -> bool:
    data = read_range(image.path, image.offset, image.size)
    return len(data) == image.size and hashlib.sha256(data).digest() == image.sha256


def _describe(state: FileState, expected: FileState) -> str:
    if state.bytes != expected.bytes:
        return f"has changed: it has {state.bytes} bytes, expected {expected.bytes}"
    if state.mtime != expected.mtime:
        return "has changed: it was written again since"
    return "has changed: it has the length and time of before, but other bytes"
