"""The chunks of a PNG and the texts in them (W3C PNG, third edition, sections 5 and 11)."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = struct.Struct(">I4s")  # of a chunk: the length of its data, its name
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


class Chunk(NamedTuple):
    """`start` is at its length field, `end` after its CRC; the data are start + 8 .. end - 4."""

    name: bytes
    start: int
    end: int


def walk_chunks(data: bytes) -> Iterator[Chunk]:
    """The complete chunks up to IEND."""
    position, size = len(SIGNATURE), len(data)
    while position + 12 <= size:
        length, name = _START.unpack_from(data, position)
        end = position + 12 + length
        if end > size:
            return
        yield Chunk(name, position, end)
        if name == b"IEND":
            return
        position = end


def has_chunk(data: bytes, names: frozenset[bytes]) -> bool:
    """Whether a complete chunk has one of these names; in a third of the time of `walk_chunks`."""
    position, size = len(SIGNATURE), len(data)
    while position + 12 <= size:
        length, name = _START.unpack_from(data, position)
        position += 12 + length
        if name in names and position <= size:
            return True
        if name == b"IEND":
            break
    return False


def chunk_data(data: bytes, chunk: Chunk) -> bytes:
    """The data of a chunk."""
    return data[chunk.start + 8 : chunk.end - 4]


def find_text(data: bytes, keyword: bytes, *, max_bytes: int) -> bytes | None:
    """The text of this keyword in any of the three kinds of text chunks; None if there is none.

    A compressed text is decompressed up to `max_bytes`.
    """
    for chunk in walk_chunks(data):
        if is_text(data, chunk, keyword):
            rest = chunk_data(data, chunk)[len(keyword) + 1 :]
            return _text_of(chunk.name, rest, max_bytes)
    return None


def is_text(data: bytes, chunk: Chunk, keyword: bytes) -> bool:
    """Whether a chunk is a text of this keyword."""
    return chunk.name in _TEXTS and data.startswith(keyword + b"\0", chunk.start + 8)


def _text_of(name: bytes, rest: bytes, max_bytes: int) -> bytes | None:
    """The text after the keyword of a chunk."""
    if name == b"tEXt":
        return rest[:max_bytes]
    if name == b"zTXt":
        return _inflate(rest[1:], max_bytes)
    compressed = rest[:1] == b"\1"
    parts = rest[2:].split(b"\0", 2)  # language, translated keyword, text
    if len(parts) < 3:
        return None
    return _inflate(parts[2], max_bytes) if compressed else parts[2][:max_bytes]


def _inflate(data: bytes, max_bytes: int) -> bytes | None:
    try:
        return zlib.decompressobj().decompress(data, max_bytes)
    except zlib.error:
        return None
