"""The blocks of a GIF (GIF89a specification, appendix A)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

SIGNATURES = (b"GIF87a", b"GIF89a")
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, 0x3B
_APPLICATION = 0xFF


class GifBlock(NamedTuple):
    """A block: an `image`, an `extension` or the `trailer`. `start` is after its introducer."""

    kind: str
    start: int
    end: int


def walk_gif(data: bytes) -> Iterator[GifBlock]:
    """The complete blocks up to the trailer."""
    position = 13 + _table_bytes(data[10:11])
    while position < len(data):
        introducer, start = data[position], position + 1
        if introducer == _TRAILER:
            yield GifBlock("trailer", start, start)
            return
        if introducer == _IMAGE:
            end = _skip_sub_blocks(data, start + 9 + _table_bytes(data[start + 8 : start + 9]) + 1)
        elif introducer == _EXTENSION:
            end = _skip_sub_blocks(data, start + 1)
        else:
            return
        if end is None:
            return
        yield GifBlock("image" if introducer == _IMAGE else "extension", start, end)
        position = end


def find_application(data: bytes, name: bytes) -> bytes | None:
    """The joined sub-blocks of the application extension with this identifier (8 bytes) and code (3).

    XMP is not written in sub-blocks but as one text whose bytes happen to lead to its end; for it use
    `find_application_raw`.
    """
    found = _application(data, name)
    return None if found is None else _join_sub_blocks(data, *found)


def find_application_raw(data: bytes, name: bytes) -> bytes | None:
    """The bytes after the header of an application extension, as in the file."""
    found = _application(data, name)
    return None if found is None else data[found[0] : found[1]]


def _application(data: bytes, name: bytes) -> tuple[int, int] | None:
    for block in walk_gif(data):
        if block.kind != "extension" or data[block.start] != _APPLICATION:
            continue
        if data.startswith(bytes([len(name)]) + name, block.start + 1):
            return block.start + 2 + len(name), block.end
    return None


def _table_bytes(flags: bytes) -> int:
    """The size of the colour table that the flags of a header announce."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0


def _skip_sub_blocks(data: bytes, position: int) -> int | None:
    """The end of the sub-blocks that begin at `position`; None if they are cut off."""
    while position < len(data):
        size = data[position]
        position += 1 + size
        if size == 0:
            return position
    return None


def _join_sub_blocks(data: bytes, position: int, end: int) -> bytes:
    parts = []
    while position < end and data[position]:
        parts.append(data[position + 1 : position + 1 + data[position]])
        position += 1 + data[position]
    return b"".join(parts)
