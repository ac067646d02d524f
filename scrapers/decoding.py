"""Bodies that come compressed although nothing but the bytes themselves was asked for. Pure."""

from __future__ import annotations

import zlib

from scrapers.answer import FetchError

# No server sends so many; each one costs a copy of what follows it.
_MAX_MEMBERS = 16


def decode_body(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a Content-Encoding, never to more than `max_bytes`.

    Raises FetchError for what is too large, broken, or encoded in another way than gzip or deflate.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(
            "encoded_body", f"Content-Encoding {encoding}, only identity was asked for", retry=True
        )
    try:
        return _inflate(body, 47 if encoding != "deflate" else 15, max_bytes)
    except zlib.error as error:
        raise FetchError("bad_body", f"{encoding}: {error}", retry=True) from error


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    room, rest = max_bytes, body
    for _ in range(_MAX_MEMBERS):  # gzip may have several, one after the other.
        if not rest:
            return b"".join(pieces)
        inflater = zlib.decompressobj(window_bits)
        pieces.append(inflater.decompress(rest, room + 1))
        room -= len(pieces[-1])
        if room < 0:
            raise FetchError("too_large", f"inflates to more than {max_bytes} bytes", retry=True)
        if not inflater.eof:
            raise FetchError("truncated", "the encoded body ends early", retry=True)
        rest = inflater.unused_data
    raise FetchError("bad_body", f"more than {_MAX_MEMBERS} gzip members", retry=True)
