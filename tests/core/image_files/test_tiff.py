"""The integers of a TIFF directory: within the entry as long as they fit, else elsewhere in the file."""

from __future__ import annotations

import struct

import pytest

from pipeline.core.image_files.tiff import read_directory

# The integer types and their struct codes (TIFF 6.0, section 2; BigTIFF).
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
TAG = 273


def tiff(order: str, big: bool, kind: int, values: tuple[int, ...]) -> bytes:
    """A TIFF of one entry, whose values are at the end of the file if they don't fit into it."""
    mark = {"<": b"II", ">": b"MM"}[order]
    word, room = ("Q", 8) if big else ("I", 4)
    head = mark + struct.pack(f"{order}H", 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, 16) if big else struct.pack(f"{order}I", 8)
    head += struct.pack(f"{order}{'Q' if big else 'H'}", 1)
    held = struct.pack(f"{order}{len(values)}{TYPES[kind]}", *values)
    entry = struct.pack(f"{order}HH{word}", TAG, kind, len(values))
    if len(held) <= room:
        return head + entry + held.ljust(room, b"\0")
    end = len(head) + len(entry) + room
    return head + entry + struct.pack(f"{order}{word}", end) + held


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 9])
def test_integers_of_every_type_and_number_are_read(
    order: str, big: bool, kind: int, count: int
) -> None:
    values = tuple(range(1, count + 1))
    directory = read_directory(tiff(order, big, kind, values))
    assert directory is not None
    assert directory.numbers(TAG) == values
    assert directory.numbers(TAG + 1) == ()


@pytest.mark.parametrize("kind", TYPES)
def test_integers_that_are_cut_off_count_as_absent(kind: int) -> None:
    directory = read_directory(tiff("<", True, kind, tuple(range(9)))[:-1])
    assert directory is not None
    assert directory.numbers(TAG) == ()
