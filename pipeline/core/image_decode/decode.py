"""`decode_image`: the raster of a file of any format."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from pipeline.core.image_decode.errors import DecodeError, Pixels, check_size
from pipeline.core.image_decode.jpeg import ends_early, with_end
from pipeline.core.image_decode.jpeg import without_metadata as without_jpeg_metadata
from pipeline.core.image_decode.pillow import FORMATS, open_with_pillow
from pipeline.core.image_decode.png import (
    check_image_data,
    decode_plain_png,
    decode_with_transparent_colour,
    read_png_header,
)
from pipeline.core.image_decode.png import without_metadata as without_png_metadata
from pipeline.core.image_files import boxes, jpeg, png, riff

__all__ = ["FORMATS", "RASTER", "Raster", "decode_image", "hash_pixels"]

# Describes `decode_image` in manifests; raise the number when its pixels change.
RASTER = "first frame, turned, over white or black, upper 8 bits, RGB; 3"


class Raster(NamedTuple):
    """An image's format, mode and transparency in its file, and its RGB pixels, uint8 [height, width, 3]."""

    format: str
    mode: str
    has_alpha: bool
    pixels_HWC: Pixels


def decode_image(data: bytes, *, max_pixels: int | None = None) -> Raster:
    """Decode a file, unless its header announces more than `max_pixels`.

    None means no limit, for files that passed it before. Thread-safe.

    Raises DecodeError with the reason, which is the same on every machine: TooLargeError, or
    MissingDecoderError for a format whose decoder is not installed.
    """
    if data.startswith(png.SIGNATURE):
        return _decode_png(data, max_pixels)
    if (other := _name_other_content(data)) is not None:
        raise DecodeError(other)
    data = _completed(data)
    try:
        return Raster(*open_with_pillow(data, max_pixels))
    except DecodeError:
        bare = _without_metadata(data)
        if bare == data:
            raise
        return Raster(*open_with_pillow(bare, max_pixels, metadata_of=data))


def _decode_png(data: bytes, max_pixels: int | None) -> Raster:
    header = read_png_header(data)
    check_size(header.width, header.height, max_pixels)
    if header.is_plain_rgb:
        return Raster("png", "RGB", False, decode_plain_png(data, header))
    check_image_data(data)
    if header.transparent is not None:
        mode, pixels_HWC = decode_with_transparent_colour(data, header)
        return Raster("png", mode, True, pixels_HWC)
    bare = without_png_metadata(data)
    return Raster(*open_with_pillow(bare, max_pixels, metadata_of=data))


def hash_pixels(pixels_HWC: Pixels) -> str:
    """SHA-256 of `RGB {width}x{height}`, a newline and the raster, 64 hex digits."""
    height, width = pixels_HWC.shape[:2]
    digest = hashlib.sha256(b"RGB %dx%d\n" % (width, height))
    digest.update(np.ascontiguousarray(pixels_HWC).data)
    return digest.hexdigest()


def _completed(data: bytes) -> bytes:
    """The same file with its format's end marker or padding added, if nothing else is missing."""
    if data.startswith(jpeg.SIGNATURE) and (ended := with_end(data)) is not data:
        if ends_early(data):
            raise DecodeError(f"the JPEG ends early, after {len(data)} bytes")
        return ended
    return riff.pad_webp(data) if riff.is_webp(data) else data


def _without_metadata(data: bytes) -> bytes:
    """The same image without metadata that may keep a decoder from reading it."""
    if data.startswith(jpeg.SIGNATURE):
        return without_jpeg_metadata(data)
    if boxes.brand_of(data) == "avif":
        return boxes.hide_item(data, b"Exif")
    return data


def _name_other_content(data: bytes) -> str | None:
    """Name content that is often found instead of an image; None if it may be an image."""
    if not data:
        return "an empty file"
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "an SVG drawing, not a raster image"
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, not an image"
    return None
