"""Read text files by users and other programs: UTF-8, with lines that end in `\\n` or `\\r\\n`.

A BOM is removed. Nothing else ends a line: `str.splitlines` would also split at form feeds and U+2028, which
captions and JSON strings may contain.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from pipeline.core.errors import ConfigError

MAX_TEXT_BYTES = 1 << 30
_BOM = "\ufeff"
_LINE_END = re.compile(r"\r?\n")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Raises ConfigError like `read_text`.
    """
    return split_lines(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file, without a BOM.

    Raises ConfigError that names the file, and the line if possible, for anything but a regular file, for
    more than 1 GiB, for bytes that are not UTF-8, and for NULs.
    """
    return decode_text(read_regular(path, max_bytes=MAX_TEXT_BYTES), path)


def decode_text(data: bytes, source: Path | str) -> str:
    """Decode `data`, the content of `source`, without a BOM.

    Raises ConfigError that names `source` and the line for bytes that are not UTF-8, and for NULs.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"the byte 0x{data[error.start]:02x}, which is not UTF-8"
        if data.startswith(_UTF16_MARKS):
            found += " (it looks like UTF-16)"
        raise _not_text(source, data, error.start, found) from error
    if "\0" in text:
        raise _not_text(source, data, data.index(b"\0"), "a NUL")
    return text.removeprefix(_BOM)


def split_lines(text: str) -> list[str]:
    """Split `text` at `\\n` and `\\r\\n`; the last line may lack its end."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises ConfigError for a folder, a pipe or a device, for more than `max_bytes`, and for an unreadable
    file.
    """
    try:
        # O_NONBLOCK: a pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _check(os.fstat(descriptor), path, max_bytes)
            return _read_all(descriptor)
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path} can't be read: {reason}. Give another file.") from error


def _check(found: os.stat_result, path: Path, max_bytes: int) -> None:
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            raise ConfigError(f"{path} can't be read: it is {kind}. Give a regular file.")
    if found.st_size > max_bytes:
        raise ConfigError(
            f"{path} can't be read: it has {found.st_size:,} bytes, more than the maximum of {max_bytes:,}."
        )


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _not_text(source: Path | str, data: bytes, position: int, found: str) -> ConfigError:
    line = data.count(b"\n", 0, position) + 1
    return ConfigError(
        f"{source} can't be read: line {line} holds {found}. Save it as text in UTF-8."
    )
