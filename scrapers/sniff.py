"""What a body is, by its bytes: the image format, and whether it is all there. Pure.

Only the outer structure is read: damage inside a whole file is found later, by decoding it.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

ImageFormat = Literal["png", "jpg", "gif", "webp"]

_PNG = b"\x89PNG\r\n\x1a\n"
_IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Sniffed(NamedTuple):
    """`format` is None for what is no image; `whole` says that its end is there."""

    format: ImageFormat | None
    whole: bool


def sniff(body: bytes) -> Sniffed:
    """Name the format of `body` by its signature and check its end."""
    if body.startswith(_PNG):
        return Sniffed("png", body.endswith(_IEND) or _png_reaches_end(body))
    if body.startswith(b"\xff\xd8\xff"):
        return Sniffed("jpg", b"\xff\xd9" in body[-512:])
    if body.startswith((b"GIF87a", b"GIF89a")):
        return Sniffed("gif", body.rstrip(b"\x00").endswith(b";"))
    if body.startswith(b"RIFF") and body[8:12] == b"WEBP":
        return Sniffed("webp", len(body) >= int.from_bytes(body[4:8], "little") + 8)
    # A body cut within its signature ends early too.
    cut = len(body) > 0 and any(
        mark.startswith(body) for mark in (_PNG, b"GIF89a", b"\xff\xd8\xff")
    )
    return Sniffed("png" if cut else None, False)


def _png_reaches_end(body: bytes) -> bool:
    """Walk the chunks (length, type, data, CRC) to IEND; bytes may follow it."""
    position = len(_PNG)
    while position + 12 <= len(body):
        length = int.from_bytes(body[position : position + 4], "big")
        kind = body[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND":
            return position <= len(body)
    return False
