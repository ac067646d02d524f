"""Read text files by users and other programs: UTF-8, with lines that end in `\\n` or `\\r\\n`.

A BOM is removed. Nothing else ends a line: `str.splitlines` would also split at form feeds and U+2028, which
captions and JSON strings may contain.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.core.regular_files import read_regular

MAX_TEXT_BYTES = 1 << 30
_BOM = "\ufeff"
_LINE_END = re.compile(r"\r?\n")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


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


def _not_text(source: Path | str, data: bytes, position: int, found: str) -> ConfigError:
    line = data.count(b"\n", 0, position) + 1
    return ConfigError(
        f"{source} can't be read: line {line} holds {found}. Save it as text in UTF-8."
    )
