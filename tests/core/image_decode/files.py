"""Image files made by hand, byte by byte where no encoder makes them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def photo(seed: int, height: int = 48, width: int = 64) -> Pixels:
    """A smooth image, different for each seed, [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: Pixels | Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def raw_png(rows: list[bytes], width: int, depth: int, colour: int, *between: bytes) -> bytes:
    """A PNG of packed rows without filters, `between` the header and the image data."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *between, chunk(b"IDAT", data), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def insert_chunks(png: bytes, *chunks: bytes) -> bytes:
    """Insert chunks right after IHDR."""
    return png[:33] + b"".join(chunks) + png[33:]


def insert_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """Insert a segment right after the start of a JPEG."""
    return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]


def exif(*entries: tuple[int, int, int, bytes]) -> bytes:
    """EXIF in big-endian order of (tag, type, count, four bytes)."""
    listed = b"".join(struct.pack(">HHI", *entry[:3]) + entry[3] for entry in entries)
    return b"MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + listed + bytes(4)


def orientation(value: int) -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack(">HH", value, 0)


def webp_of_odd_length() -> bytes:
    """A WebP whose last chunk has an odd number of bytes and its pad byte."""
    for width in range(50, 90):
        data = encode(photo(1, 40, width), "WEBP", lossless=True)
        if int.from_bytes(data[16:20], "little") % 2:
            return data
    raise AssertionError("no width gives an odd length")
