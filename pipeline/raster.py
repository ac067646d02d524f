"""From the bytes of a file to its RGB raster, or to the reason why there is none.

Floor 2, pure. Whoever hashes, hashes this raster, and whoever encodes, encodes it: codes are found by
the hash of the pixels that they were made from.

The raster of a file is: its first frame, turned as its EXIF orientation says, 8 bits a channel (of
16 the upper 8), transparency laid over white, colours taken as sRGB (profiles and gamma are not
applied). PNGs of the common kind (8-bit RGB) are decoded by kornia-rs, whose Rust decoder is the
fastest that gives the same pixels as Pillow (see bench/dedupe.py) and checks the CRCs of the image
data on its way; everything else by Pillow, which checks none of those. What the decoder does not
check of a PNG's chunks is checked here.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from kornia_rs.io import decode_image_png_u8
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.errors import PipelineError

# What `decode_image` does, for manifests; raise the number when its pixels change.
RASTER = "first frame, EXIF turned, over white, upper 8 bits, RGB; 1"

# What the web shows. Others stay shut: some run interpreters (EPS), few are tested by anyone.
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SPECIAL_CHUNKS = frozenset({b"tRNS", b"eXIf"})  # transparency and orientation: Pillow's business
_PLAIN_RGB = (8, 2)  # bit depth and colour type
_ALPHA_MODES = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})

Pixels = npt.NDArray[np.uint8]


class DecodeError(PipelineError):
    """A file that has no raster; the message says what was found. In a stage it becomes a row."""


class TooLargeError(DecodeError):
    """A file whose header promises more pixels than we decode."""

    def __init__(self, width: int, height: int, max_pixels: int) -> None:
        super().__init__(f"{width}×{height} is more than {max_pixels} pixels: not decoded")
        self.width, self.height = width, height


class Raster(NamedTuple):
    """An image as its file holds it and as RGB, uint8 [height, width, 3]."""

    format: str
    mode: str
    has_alpha: bool
    pixels_HWC: Pixels


def decode_image(data: bytes, *, max_pixels: int | None = None) -> Raster:
    """Decode a file; more than `max_pixels` by its header and it is left alone.

    None is for files that were found fit before. Safe in threads.

    Raises DecodeError (TooLargeError) with the reason, which is the same on every machine.
    """
    if data.startswith(_PNG_SIGNATURE):
        header = read_png_header(data)
        _check_size(header.width, header.height, max_pixels)
        if header.is_plain_rgb:
            return Raster("png", "RGB", False, _decode_plain_png(data, header))
        check_image_data(data)
    elif (other := _name_other_content(data)) is not None:
        raise DecodeError(other)
    return _decode_with_pillow(data, max_pixels)


def is_plain_png(data: bytes) -> bool:
    """Whether a file is a PNG of 8-bit RGB and nothing else: every reader sees the same pixels in it.

    Raises DecodeError for a damaged one.
    """
    return data.startswith(_PNG_SIGNATURE) and read_png_header(data).is_plain_rgb


def hash_pixels(pixels_HWC: Pixels) -> str:
    """SHA-256 of `RGB {width}x{height}`, a newline and the raster, 64 hex digits."""
    height, width = pixels_HWC.shape[:2]
    digest = hashlib.sha256(b"RGB %dx%d\n" % (width, height))
    digest.update(np.ascontiguousarray(pixels_HWC).data)
    return digest.hexdigest()


class PngHeader(NamedTuple):
    """What the chunks of a PNG say before anything is decoded."""

    width: int
    height: int
    is_plain_rgb: bool


def read_png_header(data: bytes) -> PngHeader:
    """Walk through the chunks of a PNG and check each CRC but those of the image data.

    Raises DecodeError where a CRC is wrong, a chunk is cut off or IHDR and IEND are not where the
    format has them (W3C PNG, third edition, section 5).
    """
    header, special = b"", False
    for name, position, after in _walk_chunks(data):
        if name == b"IDAT":
            continue
        _check_crc(data, name, position, after)
        if not header:
            if name != b"IHDR" or after - position != 25:
                raise DecodeError("the PNG does not begin with its header")
            header = data[position + 8 : position + 21]
        special = special or name in _SPECIAL_CHUNKS
    width, height, depth, colour = struct.unpack(">IIBB", header[:10])
    return PngHeader(width, height, (depth, colour) == _PLAIN_RGB and not special)


def check_image_data(data: bytes) -> None:
    """Raise DecodeError where a CRC of a PNG's image data is wrong."""
    for name, position, after in _walk_chunks(data):
        if name == b"IDAT":
            _check_crc(data, name, position, after)


def _walk_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk up to IEND, where it begins and where it ends."""
    position, end = len(_PNG_SIGNATURE), len(data)
    while True:
        if position + 12 > end:
            raise DecodeError(f"the PNG ends early, after {end} bytes")
        after = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if after > end:
            raise DecodeError(f"the PNG ends early, after {end} bytes")
        name = data[position + 4 : position + 8]
        yield name, position, after
        if name == b"IEND":
            return
        position = after


def _check_crc(data: bytes, name: bytes, position: int, after: int) -> None:
    with memoryview(data) as view:
        found = zlib.crc32(view[position + 4 : after - 4])
    if found != int.from_bytes(data[after - 4 : after], "big"):
        raise DecodeError(f"wrong CRC in PNG chunk {name.decode('latin-1')} at byte {position}")


def _decode_plain_png(data: bytes, header: PngHeader) -> Pixels:
    try:
        pixels: Pixels = decode_image_png_u8(data, (header.height, header.width), "rgb")
    except Exception as error:  # it raises nothing finer
        check_image_data(data)  # says it better
        raise DecodeError(f"broken PNG: {_tidy(error)}") from error
    return pixels


def _decode_with_pillow(data: bytes, max_pixels: int | None) -> Raster:
    try:
        with _PILLOW, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size, max_pixels)
            has_alpha = image.mode in _ALPHA_MODES or "transparency" in image.info
            kind, mode = (image.format or "").lower(), image.mode
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image), has_alpha))
    except UnidentifiedImageError:
        # Pillow's own words hold an address in memory.
        raise DecodeError("no image format that Pillow knows") from None
    except (DecodeError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever broken data makes them raise
        raise DecodeError(f"broken image: {_tidy(error)}") from error
    return Raster(kind, mode, has_alpha, pixels)


def _to_rgb(image: Image.Image, has_alpha: bool) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_to_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if has_alpha:
        overlay = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", overlay.size, "white"), overlay).convert(
            "RGB"
        )
    return image.convert("RGB")


def _to_8_bits(values: npt.NDArray[np.generic], mode: str) -> Pixels:
    """16-bit grey by its upper byte, floats and 32-bit integers cut to 0..255 or 0..65535."""
    if mode == "F":
        return np.nan_to_num(values.astype(np.float64)).clip(0, 255).astype(np.uint8)
    wide = values.astype(np.int64).clip(0, 65535)
    return (wide >> 8).astype(np.uint8)


def _check_size(width: int, height: int, max_pixels: int | None) -> None:
    if width < 1 or height < 1:
        raise DecodeError(f"an image of {width}×{height} pixels")
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeError(width, height, max_pixels)


def _name_other_content(data: bytes) -> str | None:
    """Name what is often found instead of an image, None for what may be one."""
    if not data:
        return "an empty file"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "an SVG drawing, not a raster image"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image"
    return None


class _OwnPixelLimit:
    """Let `max_pixels` be the limit, not Pillow's own, and keep its warnings to ourselves.

    Both are settings of the whole process: the first thread to come in changes them, the last one to
    leave sets them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                self._undo.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                Image.MAX_IMAGE_PIXELS = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._undo.close()


_PILLOW = _OwnPixelLimit()


def _tidy(error: Exception) -> str:
    """An error's own words without what changes from run to run."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "the file", str(error))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
