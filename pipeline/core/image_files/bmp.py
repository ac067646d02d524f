"""The header of a BMP (Microsoft's BITMAPINFOHEADER and its relatives)."""

from __future__ import annotations

_INFO_BYTES = frozenset({12, 40, 52, 56, 64, 108, 124})
_UNCOMPRESSED = frozenset({0, 3, 6})


def is_bmp(data: bytes) -> bool:
    """Whether it begins like a BMP; `BM` alone could also begin a text."""
    return data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _INFO_BYTES


def needed_bytes(data: bytes) -> int:
    """The minimum length of the file by its header; many programs write wrong lengths into it."""
    offset = int.from_bytes(data[10:14], "little")
    if int.from_bytes(data[14:18], "little") == 12:
        width, height, depth, compression = data[18:20], data[20:22], data[24:26], b""
    else:
        width, height, depth, compression = data[18:22], data[22:26], data[28:30], data[30:34]
    if int.from_bytes(compression, "little") not in _UNCOMPRESSED:
        return int.from_bytes(data[2:6], "little")
    bits = int.from_bytes(width, "little", signed=True) * int.from_bytes(depth, "little")
    rows = abs(int.from_bytes(height, "little", signed=True))
    return offset + (max(0, bits) + 31) // 32 * 4 * rows
