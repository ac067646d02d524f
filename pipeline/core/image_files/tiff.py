"""The first directory of a TIFF, which is also how EXIF is written (TIFF 6.0; BigTIFF)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
ORIENTATION = 274

_MAX_ENTRIES = 4096
# The struct codes of the integer types, and the sizes of their values.
_NUMBER_CODES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
_NUMBER_BYTES = {kind: struct.calcsize(f"={code}") for kind, code in _NUMBER_CODES.items()}


class Entry(NamedTuple):
    """A tag: the type of its values, their number and their position."""

    kind: int
    number: int
    position: int


@dataclass(frozen=True)
class Directory:
    """The tags of an image; values are read on demand, and broken ones count as absent."""

    data: bytes
    order: str
    entries: dict[int, Entry]

    def numbers(self, tag: int) -> tuple[int, ...]:
        """The integers of a tag; empty if it is absent, of another type or cut off."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _NUMBER_CODES:
            return ()
        form = f"{self.order}{entry.number}{_NUMBER_CODES[entry.kind]}"
        if entry.position + entry.number * _NUMBER_BYTES[entry.kind] > len(self.data):
            return ()
        return struct.unpack_from(form, self.data, entry.position)


def read_directory(data: bytes) -> Directory | None:
    """The first directory of a TIFF; None if there is none or it can't be read."""
    if not data.startswith(SIGNATURES):
        return None
    order = "<" if data[:1] == b"I" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_form, entry_form, inline = ("Q", "HHQ", 8) if big else ("H", "HHI", 4)
    try:
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)
        (count,) = struct.unpack_from(order + count_form, data, at)
        at += struct.calcsize(order + count_form)
        step = struct.calcsize(order + entry_form) + inline
        found = [
            _read_entry(data, at + n * step, order, entry_form, inline)
            for n in range(min(count, _MAX_ENTRIES))
            if at + (n + 1) * step <= len(data)
        ]
    except (struct.error, OverflowError):
        return None
    # If a tag occurs twice, the first one counts.
    return Directory(data, order, dict(reversed(found)))


def _read_entry(data: bytes, at: int, order: str, form: str, inline: int) -> tuple[int, Entry]:
    tag, kind, count = struct.unpack_from(order + form, data, at)
    position = at + struct.calcsize(order + form)
    if count * _NUMBER_BYTES.get(kind, 0) > inline:
        (position,) = struct.unpack_from(order + ("Q" if inline == 8 else "I"), data, position)
    return tag, Entry(kind, count, position)
