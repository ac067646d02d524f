"""The members of a tar: where their bytes are, or the bytes themselves if the tar is a stream.

A tar that ends early yields the members before that, then raises `EndsEarly`.
"""

from __future__ import annotations

import contextlib
import lzma
import re
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from pipeline.core.original_files import FileState, is_address, read_range, stat_original
from scrapers.local.looking import MAX_IMAGE_BYTES
from scrapers.source import FilePlace
from scrapers.sources.tars.expanding import PIPE, Tar

_BLOCK = 512
# What webdataset.tariterators.tar_file_iterator skips.
_METADATA = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


class EndsEarlyError(Exception):
    """The tar is cut off or damaged; the text says where."""


class Member(NamedTuple):
    """A regular file in a tar. `body` are its bytes if they can't be read where they are."""

    name: str
    place: FilePlace
    body: bytes | None


def read_members(tar: Tar) -> Iterator[Member]:
    """The regular files of a tar in their order. Raises EndsEarlyError, and OSError if it can't be opened."""
    if tar.is_pipe:
        yield from _read_pipe(tar)
        return
    state = stat_original(tar.place)
    with _open(tar.place) as file:
        head = file.read(6)
        file.seek(0)
        if head.startswith(_COMPRESSED):
            yield from _read_stream(file, tar.place, state)
        else:
            yield from _read_seekable(file, tar.place, state)


def read_small(member: Member, *, max_bytes: int) -> bytes | None:
    """The bytes of a member such as a caption; None if there are more than `max_bytes`."""
    if member.place.size > max_bytes:
        return None
    if member.body is not None:
        return member.body
    return read_range(member.place.path, member.place.offset, member.place.size)


def _open(place: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    if not is_address(place):
        return Path(place).open("rb")
    import fsspec

    opened: contextlib.AbstractContextManager[IO[bytes]] = fsspec.open(place, "rb")
    return opened


def _read_seekable(file: IO[bytes], place: str, state: FileState) -> Iterator[Member]:
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # or all would be in memory
                if info.offset_data + info.size > state.bytes and info.isreg():
                    raise EndsEarlyError(f"in {info.name}")
                if info.isreg() and not info.issparse():
                    found = FilePlace(place, info.offset_data, info.size, *state)
                    yield Member(info.name, found, None)
            _check_end(file, tar.offset)
    except tarfile.TarError as error:
        raise EndsEarlyError(str(error)) from error


def _check_end(file: IO[bytes], position: int) -> None:
    """tarfile ends at anything that is no header without a word."""
    file.seek(max(0, position - _BLOCK))
    last, block = file.read(_BLOCK), file.read(_BLOCK)
    if any(last) and (len(block) < _BLOCK or any(block)):
        raise EndsEarlyError(f"at byte {position}")


def _read_stream(file: IO[bytes], place: str, state: FileState | None) -> Iterator[Member]:
    """Members with their bytes; without a `state` of the file, a checksum of the bytes is in its place."""
    try:
        with tarfile.open(fileobj=file, mode="r|*") as tar:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]
                data = tar.extractfile(info) if info.isreg() else None
                if data is not None and info.size <= MAX_IMAGE_BYTES:
                    body = data.read()
                    kept = state or FileState(0, zlib.crc32(body))
                    yield Member(
                        info.name, FilePlace(place, info.offset_data, info.size, *kept), body
                    )
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        raise EndsEarlyError(str(error) or type(error).__name__) from error


def _read_pipe(tar: Tar) -> Iterator[Member]:
    command = tar.place.removeprefix(PIPE)
    with subprocess.Popen(command, shell=True, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield from _read_stream(process.stdout, tar.place, None)
        process.stdout.read()
        if process.wait():
            raise EndsEarlyError(f"the command ended with status {process.returncode}")


def as_files(members: Iterator[Member], place: str) -> Iterator[dict[str, Any]]:
    """The members as webdataset's functions take them; those that it skips are left out."""
    for member in members:
        if not _METADATA.match(member.name):
            yield {"fname": member.name, "data": member, "__url__": place}
