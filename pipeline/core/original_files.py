"""Images that lie outside the workspace: in files and tars of the user's, which `scrape` has only indexed.

A place is an absolute path or an address of fsspec (`s3://…`). Only regular files are read, and never more of
them than was asked for.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.core.errors import ContractError
from pipeline.core.storage import sha256_bytes

_AGAIN = "Put it back as it was, or run `pipeline scrape` for its source again and then `pipeline dedupe`."
# Where stores keep the time of a change, or else a tag that changes with the bytes.
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
_TAGS = ("ETag", "etag", "md5Hash", "checksum", "sha256")


class FileState(NamedTuple):
    """Length of a file and the time of its last change in nanoseconds (for a store without times: a tag)."""

    bytes: int
    mtime: int


def is_original(segment: str) -> bool:
    """Whether a `segment` is a file of the user's, not one of the workspace."""
    return segment.startswith("/") or is_address(segment)


def is_address(place: str) -> bool:
    """Whether fsspec has to read this place."""
    return "://" in place


def stat_original(place: str) -> FileState:
    """Length and time of a file. Raises FileNotFoundError, and OSError if it is not a regular file."""
    if is_address(place):
        return _stat_remote(place)
    found = Path(place).stat()
    _refuse_irregular(found.st_mode)
    return FileState(found.st_size, found.st_mtime_ns)


def read_whole(path: str, *, max_bytes: int) -> tuple[bytes | None, FileState]:
    """The bytes of a local file and the state that they belong to; None for more than `max_bytes`.

    Raises OSError if it is not a regular file, or changes while it is read.
    """
    with _Opened(path) as file:
        found = os.fstat(file)
        state = FileState(found.st_size, found.st_mtime_ns)
        if found.st_size > max_bytes:
            return None, state
        data = _pread(file, found.st_size, 0)
        after = os.fstat(file)
    if (after.st_size, after.st_mtime_ns) != state or len(data) != found.st_size:
        raise OSError("it changes while it is read")
    return data, state


def read_range(place: str, offset: int, size: int) -> bytes:
    """At most `size` bytes of a file from `offset`. Raises OSError like `stat_original`."""
    if is_address(place):
        return _read_remote(place, offset, size)
    with _Opened(place) as file:
        left = os.fstat(file).st_size - offset
        return _pread(file, min(size, left), offset) if left > 0 else b""


def read_original(place: str, offset: int, size: int, sha256: str) -> bytes:
    """The bytes of an image, after comparing them with their hash.

    Raises ContractError that names the file if it was moved or changed since it was scraped.
    """
    try:
        data = read_range(place, offset, size)
    except FileNotFoundError as error:
        raise ContractError(
            f"{place}, in which images were scraped, is missing: it was moved, renamed or deleted. {_AGAIN}"
        ) from error
    except OSError as error:
        raise ContractError(
            f"{place}, in which images were scraped, can't be read ({error.strerror or error}). {_AGAIN}"
        ) from error
    if len(data) != size or sha256_bytes(data) != sha256:
        raise ContractError(
            f"{place} has changed since it was scraped: expected at byte {offset} an image of {size} bytes "
            f"with the SHA-256 {str(sha256)[:12]}…, found {'others' if data else 'nothing'}. {_AGAIN}"
        )
    return data


class _Opened:
    """The descriptor of a regular file in a `with`. Pipes and devices are not even opened."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> int:
        _refuse_irregular(Path(self._path).stat().st_mode)
        # O_NONBLOCK: it may have become a pipe meanwhile.
        self._file = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def _refuse_irregular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")


def _pread(file: int, size: int, offset: int) -> bytes:
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more  # Linux reads at most 2 GiB at once
    return data


def _stat_remote(place: str) -> FileState:
    try:
        filesystem, path = _filesystem_of(place)
        info = filesystem.info(path)
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has its own exceptions
        raise OSError(f"{type(error).__name__}: {error}") from error
    if info.get("type") != "file":
        raise OSError("it is not a file")
    return FileState(int(info.get("size") or 0), _version_of(info))


def _read_remote(place: str, offset: int, size: int) -> bytes:
    try:
        filesystem, path = _filesystem_of(place)
        data: bytes = filesystem.cat_file(path, start=offset, end=offset + size)
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has its own exceptions
        raise OSError(f"{type(error).__name__}: {error}") from error
    return data[:size]


def _filesystem_of(place: str) -> tuple[Any, str]:
    import fsspec

    found: tuple[Any, str] = fsspec.core.url_to_fs(place)
    return found


def _version_of(info: dict[str, Any]) -> int:
    """A number that differs if the file was written again; 0 if the store tells nothing."""
    for name in _TIMES:
        value = info.get(name)
        if isinstance(value, datetime):
            return int(value.timestamp() * 1e9)
        if isinstance(value, (int, float)):
            return int(value * 1e9)
        if isinstance(value, str):
            return _number_of(value)
    tag = next((info[name] for name in _TAGS if info.get(name)), None)
    return 0 if tag is None else _number_of(str(tag))


def _number_of(text: str) -> int:
    return int(sha256_bytes(text.encode())[:15], 16)
