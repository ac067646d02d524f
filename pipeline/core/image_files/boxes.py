"""The boxes of AVIF, HEIC and JPEG XL files, and of JUMBF (ISO/IEC 14496-12, section 4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

JXL_CONTAINER = b"\x00\x00\x00\x0cJXL \r\n\x87\n"
JXL_CODESTREAM = b"\xff\x0a"

_AVIF = frozenset({b"avif", b"avis"})
_HEIC = frozenset(
    {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
)


class Box(NamedTuple):
    """`data[start:end]` is the content of the box; `end` may be beyond the end of the file."""

    kind: bytes
    start: int
    end: int


def walk_boxes(data: bytes, position: int = 0, end: int | None = None) -> Iterator[Box]:
    """The boxes from `position` on, including a truncated last one. Anything else ends the walk."""
    limit = len(data) if end is None else min(end, len(data))
    while position + 8 <= limit:
        size, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 :][:4]
        start = position + 8
        if size == 1:
            size, start = int.from_bytes(data[start : start + 8], "big"), start + 8
        stop = limit if size == 0 else position + size
        if stop < start or not kind.isascii():
            return
        yield Box(kind, start, stop)
        position = stop


def brand_of(data: bytes) -> str | None:
    """`avif` or `heic` by the brands in the first box, None for other files."""
    if data[4:8] != b"ftyp":
        return None
    size = min(int.from_bytes(data[:4], "big"), 1024)
    brands = {data[n : n + 4] for n in (8, *range(16, size - 3, 4))}
    if brands & _AVIF:
        return "avif"
    return "heic" if brands & _HEIC else None


def hide_item(data: bytes, kind: bytes) -> bytes:
    """The same file, with items of this kind (four letters) renamed so that decoders ignore them."""
    for box in walk_boxes(data):
        if box.kind == b"meta":
            meta = data[box.start : box.end].replace(kind, b"skip")
            return data[: box.start] + meta + data[box.end :]
    return data
