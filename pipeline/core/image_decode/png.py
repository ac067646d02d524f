"""PNGs: their CRCs, the chunks that decoders may see, and the transparent colour at every depth.

The common kind (8-bit RGB) is decoded by kornia-rs, whose Rust decoder is the fastest that yields the same
pixels as Pillow (see bench/dedupe.py), and checks the CRCs of the image data. All others are decoded by
Pillow, which doesn't. Chunks that the decoder doesn't check are checked here.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from kornia_rs.io import decode_image_png_u8, decode_image_png_u16
from PIL import Image

from pipeline.core.image_decode.background import flatten
from pipeline.core.image_decode.errors import DecodeError, Pixels, tidy
from pipeline.core.image_decode.orientation import may_turn_png, orientation_of, turn
from pipeline.core.image_decode.pillow import quiet_pillow
from pipeline.core.image_files.png import SIGNATURE, Chunk, chunk_data, walk_chunks

_GREY, _RGB, _PALETTE = 0, 2, 3
_TRANSPARENT_BYTES = {_GREY: 2, _RGB: 6}


def is_plain_png(data: bytes) -> bool:
    """Whether a file is a PNG of 8-bit RGB and nothing else, so that every reader sees the same pixels.

    Raises DecodeError for a damaged one.
    """
    return data.startswith(SIGNATURE) and read_png_header(data).is_plain_rgb


class PngHeader(NamedTuple):
    """Facts from the chunks of a PNG, read before decoding.

    `transparent` are the samples of the transparent colour of a grey or RGB image.
    """

    width: int
    height: int
    depth: int
    colour: int
    is_plain_rgb: bool
    transparent: tuple[int, ...] | None


def read_png_header(data: bytes) -> PngHeader:
    """Walk through the chunks of a PNG and check every CRC except those of the image data.

    Raises DecodeError if a CRC is wrong, a chunk is cut off, or IHDR and IEND are not where the format
    requires them (W3C PNG, third edition, section 5).
    """
    header, transparent, last = b"", None, None
    special = False  # has transparency or an orientation, which the fast decoder ignores
    for last in walk_chunks(data):
        if last.name == b"IDAT":
            continue
        _check_crc(data, last)
        if not header:
            header = _read_ihdr(data, last)
        elif last.name == b"tRNS":
            transparent = _read_transparent(chunk_data(data, last), *header[8:10])
        special = special or last.name == b"tRNS" or may_turn_png(data, last)
    if last is None or last.name != b"IEND":
        raise DecodeError(f"the PNG ends early, after {len(data)} bytes")
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    is_plain = (depth, colour) == (8, _RGB) and not special
    return PngHeader(width, height, depth, colour, is_plain, transparent)


def _read_ihdr(data: bytes, chunk: Chunk) -> bytes:
    if chunk.name != b"IHDR" or chunk.end - chunk.start != 25:
        raise DecodeError("the PNG does not begin with its header")
    return chunk_data(data, chunk)


def _read_transparent(samples: bytes, depth: int, colour: int) -> tuple[int, ...] | None:
    """The transparent colour of a grey or RGB image; only the lower `depth` bits of samples count."""
    size = _TRANSPARENT_BYTES.get(colour)
    if size is None or len(samples) < size:
        return None
    numbers: tuple[int, ...] = struct.unpack(f">{size // 2}H", samples[:size])
    return tuple(number & ((1 << depth) - 1) for number in numbers)


def check_image_data(data: bytes) -> None:
    """Raise DecodeError if a CRC of a PNG's image data is wrong."""
    for chunk in walk_chunks(data):
        if chunk.name == b"IDAT":
            _check_crc(data, chunk)


def _check_crc(data: bytes, chunk: Chunk) -> None:
    with memoryview(data) as view:
        found = zlib.crc32(view[chunk.start + 4 : chunk.end - 4])
    if found != int.from_bytes(data[chunk.end - 4 : chunk.end], "big"):
        name = chunk.name.decode("latin-1")
        raise DecodeError(f"wrong CRC in PNG chunk {name} at byte {chunk.start}")


def without_metadata(data: bytes) -> bytes:
    """The same image without chunks that no decoder needs, such as texts and profiles, which may be bombs.

    Transparency is kept if it belongs to a palette.
    """
    kept, dropped = [SIGNATURE], False
    has_palette = data[25:26] == bytes([_PALETTE])
    for chunk in walk_chunks(data):
        is_critical = not chunk.name[0] & 0x20  # an upper-case letter
        needed = is_critical or (has_palette and chunk.name == b"tRNS")
        dropped = dropped or not needed
        if needed:
            kept.append(data[chunk.start : chunk.end])
    return b"".join(kept) if dropped else data


def decode_plain_png(data: bytes, header: PngHeader) -> Pixels:
    """Decode an 8-bit RGB PNG without transparency."""
    try:
        pixels: Pixels = decode_image_png_u8(
            without_metadata(data), (header.height, header.width), "rgb"
        )
    except Exception as error:  # it raises nothing more specific
        check_image_data(data)  # has a better message
        raise DecodeError(f"broken PNG: {tidy(error)}") from error
    return pixels


def decode_with_transparent_colour(data: bytes, header: PngHeader) -> tuple[str, Pixels]:
    """Decode a grey or RGB PNG that has a transparent colour: its mode in Pillow, and its pixels.

    Pillow would compare that colour, which has the depth of the file, with pixels of 8 bits.
    """
    assert header.transparent is not None
    bare = without_metadata(data)
    try:
        with quiet_pillow(), Image.open(io.BytesIO(bare), formats=("PNG",)) as image:
            mode = image.mode
            samples_HWC = _read_samples(image, bare, header)
    except Exception as error:  # Pillow's decoders raise arbitrary exceptions for broken data
        raise DecodeError(f"broken image: {tidy(error)}") from error
    scale = 255 // ((1 << header.depth) - 1) if header.depth < 8 else 1
    hidden = np.array([sample * scale for sample in header.transparent])
    is_hidden_HW = (samples_HWC == hidden).all(axis=2)
    rgb_HWC = (samples_HWC >> 8 if header.depth == 16 else samples_HWC).astype(np.uint8)
    alpha_HW1 = np.where(is_hidden_HW, 0, 255).astype(np.uint8)[..., None]
    rgba_HWC = np.concatenate(
        [np.broadcast_to(rgb_HWC, (*is_hidden_HW.shape, 3)), alpha_HW1], axis=2
    )
    flat = flatten(Image.fromarray(rgba_HWC))
    return mode, np.asarray(turn(flat, orientation_of(data, {})))


def _read_samples(image: Image.Image, data: bytes, header: PngHeader) -> npt.NDArray[np.integer]:
    """The samples [height, width, 1 or 3]: 16-bit ones unchanged, those of less than 8 bits scaled to 8."""
    if header.depth < 16:
        values = np.asarray(image.convert("L") if header.colour == _GREY else image)
    elif header.colour == _GREY:
        values = np.asarray(image).astype(np.uint16)
    else:
        values = decode_image_png_u16(data, (header.height, header.width), "rgb")
    return values.reshape(header.height, header.width, -1)
