"""The segments of a JPEG: positions and markers."""

from __future__ import annotations

import struct

from pipeline.core.image_files.jpeg import Segment, find_end, has_scan, walk_segments


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


# The first segment contains bytes that look like a marker of their own.
FIRST = segment(0xE1, b"\xff\xda\0\2")
SCAN = segment(0xDA, b"abc") + b"\x12\xff\x00\xff\xd3\x34"
END = b"\xff\xd9"


def test_segments_are_listed_from_the_first_to_the_header_of_the_scan() -> None:
    data = b"\xff\xd8" + FIRST + segment(0xDB, b"table") + SCAN + END
    assert list(walk_segments(data)) == [
        Segment(0xE1, 6, 10),
        Segment(0xDB, 14, 19),
        Segment(0xDA, 23, 26),
    ]


def test_bytes_between_segments_and_markers_without_content_are_skipped() -> None:
    data = b"\xff\xd8" + FIRST + b"xyz\xff\x01\xff\xff" + segment(0xDB, b"") + SCAN
    assert [found.marker for found in walk_segments(data)] == [0xE1, 0xDB, 0xDA]


def test_the_end_is_after_the_end_marker_behind_a_scan() -> None:
    thumbnail = segment(0xE1, b"\xff\xd8\xff\xd9")
    data = b"\xff\xd8" + thumbnail + SCAN + END
    assert find_end(data + b"trailing") == len(data)
    assert find_end(data[:-2]) is None
    assert find_end(b"\xff\xd8" + FIRST + END) is None


def test_a_segment_that_is_cut_off_is_the_end_of_the_list() -> None:
    whole = b"\xff\xd8" + FIRST
    assert list(walk_segments(whole)) == [Segment(0xE1, 6, 10)]
    assert list(walk_segments(whole[:-1])) == []
    assert not has_scan(whole)
