"""Read and hash the images of a source on disk: the part that runs in threads. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.core.contracts import UrlState
from pipeline.core.original_files import (
    FileState,
    is_address,
    read_range,
    read_whole,
    stat_original,
)
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import ImageFormat
from scrapers.fetch.verdict import judge_response
from scrapers.rawstore.file_rows import FileRow
from scrapers.source import FilePlace, Item

# No image of a dataset is larger; a file of any length must not fill the memory.
MAX_IMAGE_BYTES = 256 * 2**20
# (bytes, their SHA-256, their format) → who refuses them.
FindRefusal = Callable[[bytes, bytes, ImageFormat | None], Refusal | None]


class Looked(NamedTuple):
    """What was found at the place of an item; `place` has the state of the file that was read.

    `body` is only there if it is to be copied.
    """

    state: UrlState
    reason: str | None
    place: FilePlace
    sha256: bytes | None = None
    format: ImageFormat | None = None
    refusal: Refusal | None = None
    body: bytes | None = None


def look_at_all(items: Sequence[Item], heed: FindRefusal, *, copy: bool) -> list[Looked]:
    """Read each item; what is read from a file that changes meanwhile counts as failed."""
    found = [_look(item, heed, copy=copy) for item in items]
    parts = {
        each.place.path: each.place
        for item, each in zip(items, found, strict=True)
        if item.body is None and not _is_whole(each.place)
    }
    changed = {path for path, place in parts.items() if not is_still_there(path, state_of(place))}
    return [
        each._replace(state="failed", reason="changes", sha256=None, body=None)
        if each.place.path in changed and each.state != "missing"
        else each
        for each in found
    ]


def state_of(place: FilePlace) -> FileState:
    """The state of the file that a place is in."""
    return FileState(place.file_bytes, place.mtime)


def is_still_there(path: str, state: FileState) -> bool:
    """Whether the file at `path` has this state."""
    try:
        return stat_original(path) == state
    except OSError:
        return False


def find_gone(files: Sequence[FileRow]) -> list[int]:
    """The numbers of the files that were moved, deleted or changed since the ledger described them."""
    return [file.number for file in files if _is_gone(file)]


def _is_gone(file: FileRow) -> bool:
    try:
        return stat_original(file.path) != (file.bytes, file.mtime)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # a store that doesn't respond says nothing


def _is_whole(place: FilePlace) -> bool:
    return place.offset == 0 and place.size == place.file_bytes and not is_address(place.path)


def _look(item: Item, heed: FindRefusal, *, copy: bool) -> Looked:
    assert item.place is not None
    try:
        body, place = _read(item, item.place)
    except FileNotFoundError:
        return Looked("missing", "gone", item.place)
    except OSError:
        return Looked("failed", "unreadable", item.place)
    if body is None:
        return Looked("failed", "too_large", place)
    verdict = judge_response(200, None, body)
    if verdict.state != "done":
        return Looked(verdict.state, verdict.reason, place, format=verdict.format)
    sha256 = hashlib.sha256(body).digest()
    refusal = heed(body, sha256, verdict.format)
    if refusal is not None:
        return Looked("opted_out", refusal.reason, place, refusal=refusal)
    kept = body if copy or item.body is not None else None
    return Looked("done", verdict.reason, place, sha256, verdict.format, body=kept)


def _read(item: Item, place: FilePlace) -> tuple[bytes | None, FilePlace]:
    """The bytes of an item, None if they are too many, and the place with the state they belong to."""
    if item.body is not None:
        return item.body, place
    if place.size > MAX_IMAGE_BYTES:
        return None, place
    if not _is_whole(place):
        return read_range(place.path, place.offset, place.size), place
    body, state = read_whole(place.path, max_bytes=MAX_IMAGE_BYTES)
    found = FilePlace(place.path, 0, state.bytes, state.bytes, state.mtime)
    return body, found
