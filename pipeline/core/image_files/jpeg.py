"""The segments of a JPEG and its end (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\xff\xd8\xff"
END = b"\xff\xd9"
SOS, EOI, DRI = 0xDA, 0xD9, 0xDD
APP0, APP1, APP11, APP14 = 0xE0, 0xE1, 0xEB, 0xEE
# Baseline, extended and progressive with Huffman codes; all others are lossless, hierarchical or arithmetic.
PROGRESSIVE = 0xC2
HUFFMAN_FRAMES = frozenset({0xC0, 0xC1, PROGRESSIVE})
METADATA = frozenset({*range(0xE0, 0xF0), 0xFE})  # application segments and comments

_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a segment
# In the data of a scan 0xFF is followed by 0 or a restart marker; anything else is the next marker.
_NEXT_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


class Segment(NamedTuple):
    """`data[start:end]` is the content after the length field."""

    marker: int
    start: int
    end: int


def walk_segments(data: bytes) -> Iterator[Segment]:
    """The segments up to and including the header of the first scan; bytes between segments are skipped."""
    position = 2
    while found := _NEXT_MARKER.search(data, position):
        segment = _segment_at(data, found.end())
        if segment is None:
            return
        if segment.marker not in _ALONE:
            yield segment
            if segment.marker in (SOS, EOI):
                return
        position = segment.end


def find_end(data: bytes) -> int | None:
    """The end of the image, after its EOI marker; None if it has none (those of thumbnails don't count).

    Never raises; None also for a file without a scan.
    """
    scans = 0
    position = 2
    while found := _NEXT_MARKER.search(data, position):
        segment = _segment_at(data, found.end())
        if segment is None:
            return None
        if segment.marker == EOI:
            return found.end() if scans else None
        scans += segment.marker == SOS
        position = segment.end
    return None


def has_scan(data: bytes) -> bool:
    """Whether the file contains image data at all."""
    return any(segment.marker == SOS for segment in walk_segments(data))


def _segment_at(data: bytes, position: int) -> Segment | None:
    """The segment whose marker ends at `position`; None if it is cut off."""
    marker = data[position - 1]
    if marker in _ALONE or marker == EOI:
        return Segment(marker, position, position)
    end = position + int.from_bytes(data[position : position + 2], "big")
    if end < position + 2 or end > len(data):
        return None
    return Segment(marker, position + 2, end)
