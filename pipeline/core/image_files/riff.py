"""The chunks of a WebP (RFC 9649, section 2.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple


class RiffChunk(NamedTuple):
    """`data[start:end]` is the content of the chunk; `end` may be beyond the end of the file."""

    name: bytes
    start: int
    end: int


def is_webp(data: bytes) -> bool:
    """Whether the file has the signature of a WebP."""
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def promised_size(data: bytes) -> int:
    """The size of the whole file by its header."""
    return int.from_bytes(data[4:8], "little") + 8


def walk_riff(data: bytes) -> Iterator[RiffChunk]:
    """The chunks of the file, including a truncated last one."""
    position, size = 12, min(len(data), promised_size(data))
    while position + 8 <= size:
        start = position + 8
        end = start + int.from_bytes(data[position + 4 : start], "little")
        yield RiffChunk(data[position : position + 4], start, end)
        position = end + end % 2  # `start` is even: so is the end of a padded chunk


def pad_webp(data: bytes) -> bytes:
    """The same file with the pad byte after a last chunk of odd length, if the encoder left it out."""
    if not lacks_padding(data):
        return data
    size = (promised_size(data) - 8 + 1) // 2 * 2
    return data[:4] + size.to_bytes(4, "little") + data[8:] + b"\0"


def lacks_padding(data: bytes) -> bool:
    """Whether the file ends right after a chunk of odd length, which should be padded."""
    last = next(reversed([*walk_riff(data)]), None)
    return (
        last is not None
        and last.end == len(data)
        and last.end % 2 == 1
        and promised_size(data) in (len(data), len(data) + 1)
    )
