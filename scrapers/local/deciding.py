"""What to do with an item of a source on disk, by what the ledger knows of it. Pure but for one question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pipeline.core.contracts import URL_STATES
from pipeline.core.original_files import FileState
from scrapers.crawl.jobs import FAILED_STATES, Mode
from scrapers.rawstore.file_rows import KnownFile
from scrapers.source import FilePlace, Item

# read: hash its bytes. move: only its file has another path now. fail: note that another tool failed.
# repeat: the ledger has its URL already, only its captions count.
Action = Literal["keep", "read", "move", "fail", "repeat"]
StillThere = Callable[[str, FileState], bool]


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What this run asks for; rows requested at `since` or before are checked again by a refresh."""

    mode: Mode
    copy: bool
    since: int = 0


def validator_of(place: FilePlace) -> str:
    """What the ledger keeps as the ETag of copied bytes: equal means that the original is the same."""
    return f"{place.file_bytes:x}-{place.mtime:x}-{place.offset:x}-{place.size:x}"


def decide(item: Item, known: KnownFile | None, wish: Wish, still_there: StillThere) -> Action:
    """What to do with `item`. `still_there` says whether a file is as the ledger describes it."""
    if item.failure is not None:
        return "fail" if known is None or _is_open(known) else "repeat"
    if known is None:
        return "read"
    assert item.place is not None
    same = _is_same(item.place, known)
    if not same and item.name is None and _is_kept(known, still_there):
        return "repeat"
    if wish.mode == "refresh" and known.last_time <= wish.since:
        return "read"
    if not same:
        return "move" if _has_moved(item.place, known) else "read"
    return "read" if _asks_again(known, wish) else "keep"


def _is_open(known: KnownFile) -> bool:
    return URL_STATES[known.state] == "pending"


def _asks_again(known: KnownFile, wish: Wish) -> bool:
    state = URL_STATES[known.state]
    if state in ("pending", "missing"):
        return True
    if state in FAILED_STATES:
        return wish.mode == "retry_failed"
    return wish.copy and state == "done" and known.segment is not None and known.segment < 0


def _is_same(place: FilePlace, known: KnownFile) -> bool:
    if known.segment is not None and known.segment < 0:
        return known.path == place.path and _matches(place, known)
    return known.etag == validator_of(place)


def _has_moved(place: FilePlace, known: KnownFile) -> bool:
    if URL_STATES[known.state] in ("pending", "missing"):
        return False
    return known.path is not None and known.path != place.path and _matches(place, known)


def _matches(place: FilePlace, known: KnownFile) -> bool:
    found = (known.offset, known.bytes, known.file_bytes, known.mtime)
    return found == (place.offset, place.size, place.file_bytes, place.mtime)


def _is_kept(known: KnownFile, still_there: StillThere) -> bool:
    """Whether the ledger has the bytes of this URL already, or a refusal."""
    state = URL_STATES[known.state]
    if state == "opted_out" or (state == "done" and (known.segment or 0) >= 0):
        return True
    if state != "done" or known.path is None:
        return False
    assert known.file_bytes is not None
    assert known.mtime is not None
    return still_there(known.path, FileState(known.file_bytes, known.mtime))
