"""Decoding of image files: an RGB raster, or the reason why there is none.

Pure. Every hash is computed from this raster and every codec encodes it, so codes can be found by the hash of
the pixels that they were made from.

The raster of a file is its first frame, rotated as its orientation says (EXIF, else XMP), with 8 bits per
channel (the upper 8 of 16), transparency flattened over white or black (see `background`), and colours taken
as sRGB (profiles and gamma are not applied).
"""

from pipeline.core.image_decode.cut import looks_cut
from pipeline.core.image_decode.decode import FORMATS, RASTER, Raster, decode_image, hash_pixels
from pipeline.core.image_decode.errors import (
    DecodeError,
    MissingDecoderError,
    Pixels,
    TooLargeError,
)
from pipeline.core.image_decode.jpeg import ends_early
from pipeline.core.image_decode.pillow import has_decoder
from pipeline.core.image_decode.png import is_plain_png

__all__ = [
    "FORMATS",
    "RASTER",
    "DecodeError",
    "MissingDecoderError",
    "Pixels",
    "Raster",
    "TooLargeError",
    "decode_image",
    "ends_early",
    "has_decoder",
    "hash_pixels",
    "is_plain_png",
    "looks_cut",
]
