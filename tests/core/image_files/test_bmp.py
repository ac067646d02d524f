"""How long a BMP must be, by its header."""

from __future__ import annotations

import struct

import pytest

from pipeline.core.image_files.bmp import is_bmp, needed_bytes


def bmp(info: bytes, *, said: int = 0) -> bytes:
    """A BMP without pixels, which would start 100 bytes after its start; `said` is the length it claims."""
    return b"BM" + struct.pack("<IIII", said, 0, 100, len(info) + 4) + info


def core_header(width: int, height: int, depth: int) -> bytes:
    """The 12 bytes of a BITMAPCOREHEADER without the first 4."""
    return struct.pack("<HHHH", width, height, 1, depth)


def info_header(width: int, height: int, depth: int, compression: int = 0) -> bytes:
    """The 40 bytes of a BITMAPINFOHEADER without the first 4."""
    return struct.pack("<iiHHI", width, height, 1, depth, compression) + bytes(20)


@pytest.mark.parametrize(
    ("width", "depth", "row_bytes"),
    [(1, 1, 4), (32, 1, 4), (33, 1, 8), (7, 4, 4), (9, 4, 8), (5, 8, 8), (5, 24, 16), (5, 32, 20)],
)
def test_rows_are_filled_up_to_four_bytes(width: int, depth: int, row_bytes: int) -> None:
    for info in (core_header(width, 3, depth), info_header(width, 3, depth)):
        assert is_bmp(bmp(info))
        assert needed_bytes(bmp(info)) == 100 + 3 * row_bytes


def test_a_core_header_is_told_by_its_length_whatever_its_width_is() -> None:
    assert needed_bytes(bmp(core_header(300, 2, 24))) == 100 + 2 * 900


def test_rows_from_the_top_have_a_negative_number() -> None:
    assert needed_bytes(bmp(info_header(5, -3, 24))) == 100 + 3 * 16


@pytest.mark.parametrize(
    ("compression", "needed"), [(0, 148), (1, 77), (2, 77), (3, 148), (6, 148)]
)
def test_a_compressed_one_is_as_long_as_it_says(compression: int, needed: int) -> None:
    assert needed_bytes(bmp(info_header(5, 3, 24, compression), said=77)) == needed
