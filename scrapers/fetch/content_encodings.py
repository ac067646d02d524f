"""Content encodings: gzip, deflate, aws-chunked, and br and zstd if a package is installed. Pure.

Each takes a body and the maximum of its decoded size. Exceeding it raises FetchError, a fault raises
`Broken`, which keeps what was decoded before it.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from importlib import import_module
from typing import Any

from scrapers.fetch.response import FetchError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# No server sends so many; each costs a copy of the rest.
_MAX_MEMBERS = 16
_STEP_BYTES = 64 * 1024
_OUT_BYTES = 2**20
# AWS Signature Version 4, "chunked upload": the length of a chunk in hex, its signature, its data.
_AWS_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})(?:;[^\r\n]{0,200})?\r\n")


class Broken(Exception):  # noqa: N818  (what was found, not what went wrong with us)
    """A body doesn't have the encoding of its label; `came` is what was decoded, `cut` if it ends early."""

    def __init__(self, why: str, came: bytes = b"", *, cut: bool = False) -> None:
        super().__init__(why)
        self.came = came
        self.cut = cut


class NoDecoderError(Exception):
    """No package for an encoding is installed; the text names those that would do."""


class _Output:
    """Collects decoded pieces, at most `room` bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        """Add a piece. Raises FetchError if it is too much."""
        self._pieces.append(piece)
        self.room -= len(piece)
        if self.room < 0:
            raise FetchError("too_large", "the decoded body is larger than the limit", retry=True)

    def joined(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)


def gunzip(body: bytes, max_bytes: int) -> bytes:
    """One or several members of gzip; anything else after the first is dropped."""
    if not body.startswith(GZIP_MAGIC):
        raise Broken("gzip: not its magic number")
    out, rest = _Output(max_bytes), body
    for _ in range(_MAX_MEMBERS):
        if not rest.startswith(GZIP_MAGIC):
            return out.joined()
        piece, rest = _inflate(rest[_gzip_head(rest) :], out)
        _check(zlib.crc32(piece) == int.from_bytes(rest[:4], "little"), "gzip", rest[:8], 8, out)
        rest = rest[8:]
    raise Broken(f"gzip: more than {_MAX_MEMBERS} members")


def undeflate(body: bytes, max_bytes: int) -> bytes:
    """zlib's format, as in the standard (RFC 9110, 8.4.1.2), or raw deflate, as many servers send."""
    out = _Output(max_bytes)
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    if not is_zlib:
        return _inflate(body, out)[0]
    piece, rest = _inflate(body[2:], out)
    _check(zlib.adler32(piece) == int.from_bytes(rest[:4], "big"), "deflate", rest[:4], 4, out)
    return piece


def _gzip_head(body: bytes) -> int:
    """Where the data begin (RFC 1952, 2.3)."""
    flags, at = body[3] if len(body) > 10 else 0, 10
    if flags & 4:
        at += 2 + int.from_bytes(body[at : at + 2], "little")
    for flag in (8, 16):  # a name, a comment
        if flags & flag:
            end = body.find(b"\0", at)
            at = len(body) if end < 0 else end + 1
    return at + 2 if flags & 2 else at


def _check(is_right: bool, name: str, trailer: bytes, length: int, out: _Output) -> None:
    """Compare with a stream's own trailer; the decoded bytes are kept in any case."""
    if len(trailer) < length:
        raise Broken("the encoded body ends early", out.joined(), cut=True)
    if not is_right:
        raise Broken(f"{name}: wrong checksum", out.joined())


def _inflate(body: bytes, out: _Output) -> tuple[bytes, bytes]:
    """One raw stream, and what follows it. In steps, so that what precedes a fault is not lost."""
    inflater = zlib.decompressobj(-15)
    pieces: list[bytes] = []
    view = memoryview(body)
    for start in range(0, len(body), _STEP_BYTES):
        data: bytes | memoryview = view[start : start + _STEP_BYTES]
        while len(data) and not inflater.eof:
            try:
                pieces.append(inflater.decompress(data, _OUT_BYTES))
            except zlib.error as error:
                raise Broken(str(error), out.joined()) from error
            out.add(pieces[-1])
            data = inflater.unconsumed_tail
        if inflater.eof:
            rest = len(inflater.unused_data) + max(0, len(body) - start - _STEP_BYTES)
            return b"".join(pieces), body[len(body) - rest :]
    raise Broken("the encoded body ends early", out.joined(), cut=True)


def unframe_aws(body: bytes) -> bytes:
    """Unpack the chunks of an upload; a body that only has the label is returned as it is."""
    pieces: list[bytes] = []
    position = 0
    while match := _AWS_CHUNK.match(body, position):
        size, start = int(match[1], 16), match.end()
        if not size:
            return b"".join(pieces)
        pieces.append(body[start : start + size])
        position = start + size + 2
        if body[start + size : position] != b"\r\n":
            break
    if pieces:
        raise Broken("aws-chunked: it ends early", b"".join(pieces), cut=True)
    return body


def unbrotli(body: bytes, max_bytes: int) -> bytes:
    """Brotli (RFC 7932). Raises NoDecoderError."""
    brotli = _import("br", "brotli", "brotlicffi")
    decoder, out, data = brotli.Decompressor(), _Output(max_bytes), body
    try:
        while not decoder.is_finished():
            piece = decoder.process(data, output_buffer_limit=_OUT_BYTES)
            if not piece and not data:
                raise Broken("br: the encoded body ends early", out.joined(), cut=True)
            out.add(piece)
            data = b""
    except TypeError as error:  # versions before 1.2 know no limit
        raise NoDecoderError("brotli 1.2 or later") from error
    except brotli.error as error:
        raise Broken(f"br: {error}", out.joined()) from error
    return out.joined()


def unzstd(body: bytes, max_bytes: int) -> bytes:
    """Zstandard (RFC 8878), with the standard library's module of 3.14. Raises NoDecoderError."""
    zstd = _import("zstd", "compression.zstd", "backports.zstd")
    decoder, out, data = zstd.ZstdDecompressor(), _Output(max_bytes), body
    try:
        while not decoder.eof:
            piece = decoder.decompress(data, _OUT_BYTES)
            if not piece and decoder.needs_input:
                raise Broken("zstd: the encoded body ends early", out.joined(), cut=True)
            out.add(piece)
            data = b""
    except zstd.ZstdError as error:
        raise Broken(f"zstd: {error}", out.joined()) from error
    return out.joined()


def _import(encoding: str, *names: str) -> Any:
    for name in names:
        try:
            return import_module(name)
        except ImportError:
            continue
    raise NoDecoderError(f"a package for {encoding}: {' or '.join(names)}")


DECODERS: dict[str, Callable[[bytes, int], bytes]] = {
    "gzip": gunzip,
    "deflate": undeflate,
    "br": unbrotli,
    "zstd": unzstd,
}
