"""Append-only tars of the bytes as fetched: `<key>.json` and `<key>.png` (or jpg…) per image.

The writer only lays out bytes in memory (`place`) and appends them later (`write`), so that the ledger's row
and the bytes belong together. Plain ustar: `tar` and `webdataset` read it. An open segment has no end mark
while it grows; `seal` writes it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.core.errors import StorageError
from pipeline.core.storage import storage_error, sync_folder
from pipeline.core.tar import END, header_maker, padding
from scrapers.rawstore.segment_hash import SegmentHash, hash_segment, read_members

_PIECE_BYTES = 256 * 1024
_LARGE_BYTES = 64 * 1024  # Larger buffers are not worth a copy.
# One fixed time for all members: same images, same bytes. tar warns about the year 1970.
_DEVICE = b"0000000\0" * 2
_make_header = header_maker(time_s=1609804800, device=_DEVICE)


class Place(NamedTuple):
    """The position of an image's bytes: segment number, offset in the tar."""

    segment: int
    offset: int


class SegmentState(NamedTuple):
    """A segment in the ledger: its valid bytes, and their hash if it is closed."""

    number: int
    bytes: int
    sha256: str | None


class Pieces(NamedTuple):
    """Bytes for one segment, in order; `closes` if the end mark follows.

    `hashed` are the same with each image replaced by its SHA-256.
    """

    segment: int
    buffers: list[bytes]
    hashed: list[bytes]
    closes: bool


def segment_name(number: int) -> str:
    """The file name of a segment."""
    return f"{number:05d}.tar"


class SegmentWriter:
    """Appends to the last segment of a folder and begins a new one when it is full.

    `place` and `take` belong to the fetching thread, `write` and `seal` to the writing one.
    """

    def __init__(self, folder: Path, last: SegmentState | None, *, max_bytes: int) -> None:
        """Continue after `last`: a torn tail after its committed bytes is cut off."""
        self.folder = folder
        self.max_bytes = max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        fresh = last is None or last.sha256 is not None
        self._number = 0 if last is None else last.number + fresh
        self._position = 0 if last is None or fresh else last.bytes
        self._pieces = [Pieces(self._number, [], [], False)]
        self._drop_unknown()
        self._file: int | None = None
        self._written_number = self._number
        self._written_bytes = self._position
        self._hash = SegmentHash()

    def _drop_unknown(self) -> None:
        for path in sorted(self.folder.glob("*.tar")):
            if path.stem.isdigit() and int(path.stem) >= self._number + (self._position > 0):
                path.unlink()

    def _resume(self) -> None:
        """Cut the torn tail, or the end mark, off the last segment."""
        path = self.folder / segment_name(self._written_number)
        self._file = os.open(path, os.O_RDWR)
        os.ftruncate(self._file, self._written_bytes)
        self._hash = SegmentHash()
        with path.open("rb") as file:
            for _ in read_members(file, self._hash):
                pass
        os.lseek(self._file, 0, os.SEEK_END)

    def place(self, key: str, extension: str, body: bytes, sidecar: str, *, sha256: bytes) -> Place:
        """Lay out one image after the others; its bytes are written by the next `write`.

        `sidecar` is its JSON member, `sha256` the hash of the bytes.
        """
        text = sidecar.encode("utf-8", "surrogatepass")
        name = key.encode("ascii")
        head = b"".join(
            (
                _make_header(name + b".json", len(text)),
                text,
                padding(len(text)),
                _make_header(b"%s.%s" % (name, extension.encode("ascii")), len(body)),
            )
        )
        tail = padding(len(body))
        size = len(head) + len(body) + len(tail)
        if self._position and self._position + size + len(END) > self.max_bytes:
            self._roll()
        place = Place(self._number, self._position + len(head))
        pieces = self._pieces[-1]
        pieces.buffers.extend((head, body, tail) if tail else (head, body))
        pieces.hashed.extend((head, sha256, tail))
        self._position += size
        return place

    def _roll(self) -> None:
        self._pieces[-1] = self._pieces[-1]._replace(closes=True)
        self._number += 1
        self._position = 0
        self._pieces.append(Pieces(self._number, [], [], False))

    def take(self) -> list[Pieces]:
        """Everything that was laid out since the last call."""
        taken, self._pieces = self._pieces, [Pieces(self._number, [], [], False)]
        return taken

    def write(self, pieces: list[Pieces]) -> list[SegmentState]:
        """Append, sync, and return how far the segments reach now.

        Raises StorageError if the disk is full or fails.
        """
        states = []
        for part in pieces:
            if not part.buffers and not part.closes:
                continue
            try:
                states.append(self._write_part(part))
            except OSError as error:
                raise storage_error(error, self.folder / segment_name(part.segment)) from error
        return states

    def _write_part(self, part: Pieces) -> SegmentState:
        if self._file is None and self._written_number == part.segment and self._written_bytes:
            self._resume()
        elif self._file is None or self._written_number != part.segment:
            self._open_new(part.segment)
        assert self._file is not None
        self._append([*part.buffers, END] if part.closes else part.buffers)
        self._hash.update(b"".join([*part.hashed, END] if part.closes else part.hashed))
        os.fdatasync(self._file)
        if not part.closes:
            return SegmentState(part.segment, self._written_bytes, None)
        state = SegmentState(part.segment, self._written_bytes, str(self._hash))
        self.release()
        self._written_bytes = 0
        return state

    def _open_new(self, number: int) -> None:
        path = self.folder / segment_name(number)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        sync_folder(self.folder)
        self._hash = SegmentHash()
        self._written_number, self._written_bytes = number, 0

    def _append(self, buffers: list[bytes]) -> None:
        assert self._file is not None
        for data in _joined(buffers):
            _write_all(self._file, data)
            self._written_bytes += len(data)

    def seal(self) -> tuple[str, int, str] | None:
        """Append the end mark to an open segment, so that every tool can read it to its end.

        The mark doesn't count: the next run overwrites it. Returns the segment's name, length and hash with
        it; None if no segment is open.
        """
        path = self.folder / segment_name(self._written_number)
        try:
            if self._file is None:
                if not self._written_bytes:
                    return None
                if path.stat().st_size == self._written_bytes + len(END):
                    return path.name, self._written_bytes + len(END), hash_segment(path)
                self._resume()
            assert self._file is not None
            _write_all(self._file, END)
            os.fdatasync(self._file)
        except OSError as error:
            raise storage_error(error, path) from error
        self.release()
        return path.name, self._written_bytes + len(END), self._hash.ended_by(END)

    def release(self) -> None:
        """Close the file as it is."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def _joined(buffers: list[bytes]) -> Iterator[bytes]:
    """The same bytes, with small buffers joined.

    Each write waits for the interpreter's lock when it returns, while the fetching thread is busy; with one
    write per small image, the waits would take longer than the work.
    """
    small: list[bytes] = []
    size = 0
    for buffer in buffers:
        large = len(buffer) >= _LARGE_BYTES
        if small and (large or size + len(buffer) > _PIECE_BYTES):
            yield b"".join(small)
            small, size = [], 0
        if large:
            yield buffer
        else:
            small.append(buffer)
            size += len(buffer)
    if small:
        yield b"".join(small)


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def refuse_unknown(folder: Path, begun: int) -> None:
    """Raise StorageError if the folder contains a segment after number `begun`, the last we began.

    A kill can't leave one; a lost ledger, or an older copy of it, can.
    """
    numbers = [int(path.stem) for path in folder.glob("*.tar") if path.stem.isdigit()]
    unknown = sorted(number for number in numbers if number > begun)
    if unknown:
        raise StorageError(
            f"{folder} contains {len(unknown)} segments that the ledger doesn't know, "
            f"such as {segment_name(unknown[0])}: restore {folder.parent / 'ledger.sqlite'}, or "
            f"move {folder} away to fetch everything again."
        )


def check_segments(folder: Path, states: list[SegmentState]) -> dict[int, int]:
    """Segments that are shorter than the ledger says, with their remaining bytes.

    Raises StorageError if the folder can't be read.
    """
    short = {}
    for state in states:
        path = folder / segment_name(state.number)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            size = 0
        except OSError as error:
            raise StorageError(f"Can't read {path}: {error.strerror}.") from error
        if size < state.bytes:
            short[state.number] = size
    return short
