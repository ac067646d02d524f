"""The chunks of a PNG: two ways to go through them that agree."""

from __future__ import annotations

import struct
import zlib

import pytest

from pipeline.core.image_files.png import SIGNATURE, has_chunk, walk_chunks

NAMES = frozenset({b"tEXt", b"caBX"})


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


HEAD, DATA, TEXT, END = (
    chunk(b"IHDR", bytes(13)), chunk(b"IDAT", b"x" * 99), chunk(b"tEXt", b"a\0b"), chunk(b"IEND"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (HEAD + DATA + END, False),
        (HEAD + TEXT + DATA + END, True),
        (HEAD + DATA + TEXT + END, True),
        (HEAD + DATA + chunk(b"caBX") + END, True),
        (HEAD + DATA + END + TEXT, False),
        # A chunk that ends early, or claims more than there is, is not complete.
        (HEAD + TEXT[:-1], False),
        (HEAD + struct.pack(">I", 2**31) + b"tEXt" + bytes(40), False),
        (HEAD + TEXT[:11], False),
        (b"", False),
    ],
)
def test_a_chunk_is_found_if_it_is_complete_and_before_the_end(body: bytes, found: bool) -> None:
    data = SIGNATURE + body
    assert has_chunk(data, NAMES) is found
    assert any(one.name in NAMES for one in walk_chunks(data)) is found
