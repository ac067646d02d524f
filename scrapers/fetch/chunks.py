"""Chunked bodies (RFC 9112, 7.1), decoded as they arrive. Pure."""

from __future__ import annotations

import re

# Hex digits and nothing else: Python's own reading would take a `0x` or a `_` with them.
_LENGTH = re.compile(rb"[0-9A-Fa-f]{1,15}")
_MAX_LINE_BYTES = 4096
# No server sends so many chunks; each costs a microsecond.
_MAX_CHUNKS = 2**18
# Trailers are dropped; a head of this size would be refused, too.
MAX_TRAILER_BYTES = 64 * 1024


class BadChunk(Exception):  # noqa: N818  (what was found, not what went wrong with us)
    """Not a chunked body; the text says why."""


class Chunks:
    """Feed it what arrives: it returns the data within; `ended` is set after the last chunk."""

    def __init__(self) -> None:
        self.ended = False
        # Bytes after the body's end, of a response that nobody requested.
        self.rest = b""
        self._part = b""
        self._left = 0  # left of the chunk's data
        self._number = 0
        self._in_trailer = False
        self._trailer_bytes = 0

    def feed(self, data: bytes) -> list[bytes]:
        """The pieces of the body in `data`. Raises BadChunk."""
        pieces = []
        data, self._part = self._part + data if self._part else data, b""
        position = 0
        while not self.ended and position < len(data):
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                self._left -= len(piece)
                position += len(piece)
                continue
            end = data.find(b"\n", position)
            if end < 0:
                self._keep(data[position:])
                return pieces
            self._read_line(data[position:end].strip())
            position = end + 1
        self.rest = data[position:] if self.ended else b""
        return pieces

    def _keep(self, part: bytes) -> None:
        if len(part) > _MAX_LINE_BYTES:
            raise BadChunk(f"a line of more than {_MAX_LINE_BYTES} bytes between chunks")
        self._part = part

    def _read_line(self, line: bytes) -> None:
        if self._in_trailer:
            self._trailer_bytes += len(line)
            if self._trailer_bytes > MAX_TRAILER_BYTES:
                raise BadChunk(f"trailers of more than {MAX_TRAILER_BYTES} bytes")
            self.ended = not line
        elif line:
            self._begin_chunk(line.partition(b";")[0].strip())
        # An empty line ends the data of the previous chunk.

    def _begin_chunk(self, digits: bytes) -> None:
        if not _LENGTH.fullmatch(digits):
            raise BadChunk(f"not a chunk length: {digits[:40]!r}")
        self._left = int(digits, 16)
        self._in_trailer = self._left == 0
        self._number += 1
        if self._number > _MAX_CHUNKS:
            raise BadChunk(f"more than {_MAX_CHUNKS} chunks")
