"""Repair of a damaged raw store: lost images become pending, so that the next scrape fetches just them.

A segment whose bytes changed is written again without the lost images, under a new number: nothing refers to
a file with doubtful bytes. A kill at any moment leaves a store that can be repaired again: the new segment is
on disk before the ledger names it, in one transaction, and the old one is deleted after that.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.errors import StorageError
from pipeline.core.storage import sha256_bytes
from scrapers.fetch.sniff import sniff
from scrapers.rawstore.file_rows import FileChanges
from scrapers.rawstore.keys import image_key
from scrapers.rawstore.raw_check import HeldImage, Segment
from scrapers.rawstore.segment_hash import hash_segment
from scrapers.rawstore.segments import SegmentState, SegmentWriter, segment_name

_BEGUN = "last_segment_begun"  # which segments may exist, noted before they are written
_BATCH_BYTES = 16 * 2**20
_END = bytes(1024)  # of a tar
_HELD = """
SELECT u.segment, u.offset, u.bytes, u.sha256, u.is_old, u.form, u.rank, u.version,
  u.etag, u.last_modified, u.final_url, u.original, f.key, f.section, f.caption, f.masked, f.prefix,
  f.suffix, {rank}
FROM (SELECT segment, offset, bytes, sha256, 0 AS is_old, form, rank, version, etag, last_modified,
      final_url, {original} AS original
    FROM urls WHERE segment = ?1
  UNION ALL
  SELECT segment, offset, bytes, sha256, 1, form, rank, version, etag, last_modified, NULL, {original}
    FROM versions WHERE segment = ?1) u JOIN forms f ON f.id = u.form
ORDER BY u.offset
"""
_FORGET = (
    "UPDATE urls SET state = 0, reason = 'lost_bytes', etag = NULL, last_modified = NULL, sha256 = NULL, "
    "bytes = NULL, segment = NULL, offset = NULL WHERE form = ? AND rank = ?",
    "DELETE FROM versions WHERE form = ? AND rank = ? AND version = ?",
)
_MOVE = (
    "UPDATE urls SET segment = ?, offset = ? WHERE form = ? AND rank = ?",
    "UPDATE versions SET segment = ?, offset = ? WHERE form = ? AND rank = ? AND version = ?",
)


@dataclass(frozen=True, kw_only=True)
class Mended:
    """The result for damaged segments: images to fetch again, earlier versions lost, images kept."""

    lost: int
    versions_lost: int
    kept: int


def mend_segments(raw: Path, damaged: Iterable[Segment]) -> Mended:
    """Make the lost images of `damaged` segments pending in the raw store `raw`, and move the others.

    Raises StorageError if the ledger or the disk fails.
    """
    total = Mended(lost=0, versions_lost=0, kept=0)
    damaged = list(damaged)
    with _open(raw / "ledger.sqlite") as ledger:
        _close_segments(ledger, raw / "segments", {segment.number for segment in damaged})
        for segment in damaged:
            one = _Mending(ledger, raw / "segments", segment).run()
            total = Mended(
                lost=total.lost + one.lost,
                versions_lost=total.versions_lost + one.versions_lost,
                kept=total.kept + one.kept,
            )
    sweep_segments(raw)
    return total


def forget_originals(raw: Path, numbers: Iterable[int]) -> int:
    """Make the images in these files outside the workspace pending; returns their number.

    Raises StorageError if the ledger or the disk fails.
    """
    with _open(raw / "ledger.sqlite") as ledger:
        ledger.execute("BEGIN IMMEDIATE")
        before = ledger.total_changes
        FileChanges(forgotten=list(numbers)).write(ledger)
        waiting = ledger.total_changes - before
        ledger.execute("COMMIT")
    return waiting


def sweep_segments(raw: Path) -> list[str]:
    """Delete our segments that the ledger no longer names: the rest of a repair that was killed.

    Returns their names.
    """
    with _open(raw / "ledger.sqlite") as ledger:
        begun = int(_meta(ledger, _BEGUN, "-1"))
        named = {number for (number,) in ledger.execute("SELECT number FROM segments")}
    swept = [
        path
        for path in sorted((raw / "segments").glob("*.tar"))
        if path.stem.isdigit() and int(path.stem) <= begun and int(path.stem) not in named
    ]
    for path in swept:
        path.unlink()
    return [path.name for path in swept]


def _close_segments(ledger: sqlite3.Connection, folder: Path, damaged: set[int]) -> None:
    """Close the segment that a crawl would continue: new ones follow it."""
    rows = ledger.execute("SELECT number, bytes FROM segments WHERE sha256 IS NULL").fetchall()
    for number, size in rows:
        if number not in damaged:
            with (folder / segment_name(number)).open("r+b") as file:
                file.truncate(size)
                file.seek(size)
                file.write(_END)
                file.flush()
                os.fsync(file.fileno())
            digest = hash_segment(folder / segment_name(number))
            closed = (size + len(_END), digest, number)
            ledger.execute("UPDATE segments SET bytes = ?, sha256 = ? WHERE number = ?", closed)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as ledger:
            ledger.execute("PRAGMA synchronous = FULL")
            yield ledger
    except sqlite3.Error as error:
        raise StorageError(f"Can't read or write {path}: {error}.") from error


def _meta(ledger: sqlite3.Connection, name: str, default: str) -> str:
    row = ledger.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    return default if row is None else str(row[0])


class _Mending:
    """One damaged segment."""

    def __init__(self, ledger: sqlite3.Connection, folder: Path, segment: Segment) -> None:
        self._ledger = ledger
        self._folder = folder
        self._segment = segment
        self._lost = {_name(image) for image in segment.lost}
        self._moved: list[tuple[HeldImage, int, int]] = []

    def run(self) -> Mended:
        """Write the intact images to a new segment, update the ledger, and delete the damaged one."""
        writer = self._begin_segment()
        states = list(self._copy(writer))
        sealed = writer.seal()
        if sealed is not None:
            name, size, digest = sealed
            states = [SegmentState(int(Path(name).stem), size, digest)]
        self._commit(states)
        with contextlib.suppress(FileNotFoundError):
            (self._folder / self._segment.name).unlink()
        versions = sum(image.is_old for image in self._segment.lost)
        return Mended(
            lost=len(self._segment.lost) - versions, versions_lost=versions, kept=len(self._moved)
        )

    def _begin_segment(self) -> SegmentWriter:
        """A writer after all segments that may exist, noted before it writes."""
        numbers = [number for (number,) in self._ledger.execute("SELECT number FROM segments")]
        last = max([*numbers, self._segment.number, int(_meta(self._ledger, _BEGUN, "-1"))])
        self._ledger.execute("INSERT OR REPLACE INTO meta VALUES(?, ?)", (_BEGUN, str(last + 1)))
        closed = SegmentState(last, 0, "closed")
        return SegmentWriter(self._folder, closed, max_bytes=2**62)

    def _copy(self, writer: SegmentWriter) -> Iterator[SegmentState]:
        """Copy the intact images in their order, each with a record from the ledger."""
        waiting = 0
        path = self._folder / self._segment.name
        for *columns, form in self._held():
            image = HeldImage(*columns)
            if _name(image) in self._lost:
                continue
            body = _read(path, image)
            place = writer.place(*_as_member(image, form, body), sha256=image.sha256)
            self._moved.append((image, place.segment, place.offset))
            waiting += len(body)
            if waiting > _BATCH_BYTES:
                yield from writer.write(writer.take())
                waiting = 0
        yield from writer.write(writer.take())

    def _held(self) -> Iterator[tuple[Any, ...]]:
        names = (
            "etag",
            "last_modified",
            "final_url",
            "original",
            "key",
            "section",
            "caption",
            "masked",
        )
        held = _HELD.format(
            # In ledgers of version 1 the rank is 0 if the URL has none.
            rank="f.rank" if self._has("forms", "rank") else "0",
            original="original_sha256" if self._has("urls", "original_sha256") else "NULL",
        )
        for row in self._ledger.execute(held, (self._segment.number,)).fetchall():
            facts = dict(zip((*names, "prefix", "suffix", "rank"), row[8:], strict=True))
            yield (*row[:4], bool(row[4]), *row[5:8], facts)

    def _has(self, table: str, column: str) -> bool:
        """Whether this ledger has a column, which earlier ones lack."""
        return column in [row[1] for row in self._ledger.execute(f"PRAGMA table_info({table})")]

    def _commit(self, states: list[SegmentState]) -> None:
        self._ledger.execute("BEGIN IMMEDIATE")
        try:
            for image in self._segment.lost:
                self._ledger.execute(_FORGET[image.is_old], _key(image))
            for image, number, offset in self._moved:
                self._ledger.execute(_MOVE[image.is_old], (number, offset, *_key(image)))
            self._ledger.execute("DELETE FROM segments WHERE number = ?", (self._segment.number,))
            self._ledger.executemany("INSERT OR REPLACE INTO segments VALUES(?, ?, ?)", states)
            self._ledger.execute("COMMIT")
        except BaseException:
            if self._ledger.in_transaction:
                self._ledger.execute("ROLLBACK")
            raise


def _name(image: HeldImage) -> tuple[bool, int, int, int]:
    return image.is_old, image.form, image.rank, image.version


def _key(image: HeldImage) -> tuple[int, ...]:
    """The columns that identify the row."""
    row = (image.form, image.rank)
    return (*row, image.version) if image.is_old else row


def _read(path: Path, image: HeldImage) -> bytes:
    with path.open("rb", buffering=0) as file:
        data = os.pread(file.fileno(), image.size, image.offset)
    if sha256_bytes(data) != image.sha256.hex():
        raise StorageError(f"{path} changed while it was read: run the command again.")
    return data


def _as_member(
    image: HeldImage, form: Mapping[str, Any], body: bytes
) -> tuple[str, str, bytes, str]:
    """Key, extension, body and record of an image, as the crawl writes them."""
    key = image_key(form["key"], image.rank, image.version)
    url = (
        form["prefix"]
        if form["suffix"] is None
        else f"{form['prefix']}{image.rank}{form['suffix']}"
    )
    record = {
        "caption": form["caption"],
        "etag": form["etag"],
        "final_url": form["final_url"] or url,
        "last_modified": form["last_modified"],
        "masked": bool(form["masked"]),
        "rank": form["rank"] if form["suffix"] is None else image.rank,
        "section": form["section"],
        "sha256": image.sha256.hex(),
        "url": url,
    }
    if form["original"] is not None:
        record["original_sha256"] = form["original"].hex()
    text = json.dumps(record, sort_keys=True, ensure_ascii=False)
    return key, sniff(body).format or "bin", body, text
