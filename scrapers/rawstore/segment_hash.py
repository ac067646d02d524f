"""The hash of a segment: of its bytes, with each image replaced by its SHA-256.

Images are hashed for the ledger anyway: this way nothing is hashed twice, neither when a segment is written
nor when it is verified. Segments of contract version 1 have the SHA-256 of their plain bytes; a prefix of the
hash tells which it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from pipeline.core.tar import BLOCK

SCHEME = "members-sha256:"
_CHUNK_BYTES = 1 << 20
_SIDECAR = b".json"


class Member(NamedTuple):
    """The bytes of an image in a segment: their position and their SHA-256."""

    offset: int
    size: int
    sha256: bytes


class SegmentHash:
    """The hash of a segment as it grows."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, data: bytes) -> None:
        """Add bytes that are no image, or the SHA-256 of one in its place."""
        self._hash.update(data)

    def ended_by(self, data: bytes) -> str:
        """The hash with `data` appended, which is not kept."""
        whole = self._hash.copy()
        whole.update(data)
        return SCHEME + whole.hexdigest()

    def __str__(self) -> str:
        return SCHEME + self._hash.hexdigest()


def hash_segment(path: Path, *, like: str | None = None) -> str:
    """The hash of a segment; of the plain bytes if `like`, the hash to compare with, is of version 1."""
    with path.open("rb") as file:
        if like is not None and not like.startswith(SCHEME):
            return hashlib.file_digest(file, "sha256").hexdigest()
        found = SegmentHash()
        for _ in read_members(file, found):
            pass
        return str(found)


def read_members(file: IO[bytes], found: SegmentHash) -> Iterator[Member]:
    """The images of a segment, read from beginning to end; `found` becomes its hash.

    After the first block that is not a valid tar, the rest counts as bytes that are no image.
    """
    while len(header := file.read(BLOCK)) == BLOCK:
        found.update(header)
        size = _size_of(header)
        if size is None:
            break
        if header[:100].rstrip(b"\0").endswith(_SIDECAR):
            _hash_rest(file, size + -size % BLOCK, found)
            continue
        offset = file.tell()
        image = hashlib.sha256()
        length = _hash_rest(file, size, image)
        found.update(image.digest())
        yield Member(offset, length, image.digest())
        _hash_rest(file, -size % BLOCK, found)
    else:
        found.update(header)
    _hash_rest(file, None, found)


def _size_of(header: bytes) -> int | None:
    """The size in a header of ours; None for anything else, including the end mark."""
    digits = header[124:135]
    if header[257:262] != b"ustar" or header[156:157] != b"0" or not digits.isdigit():
        return None
    try:
        return int(digits, 8)
    except ValueError:
        return None


def _hash_rest(file: IO[bytes], size: int | None, found: SegmentHash | hashlib._Hash) -> int:
    """Hash the next `size` bytes, or all that are left if None; returns their number."""
    left = 1 << 62 if size is None else size
    number = 0
    while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
        found.update(chunk)
        left -= len(chunk)
        number += len(chunk)
    return number
