"""From the bytes of a file to its RGB raster, or to the reason why there is none. Core layer, pure.

Whoever hashes, hashes this raster, and whoever encodes, encodes it: codes are found by the hash of the
pixels that they were made from.

The raster of a file is: its first frame, turned as its orientation says (EXIF, else XMP), 8 bits a channel
(of 16 the upper 8), transparency laid over white or black (see `ground`), colours taken as sRGB
(profiles and gamma are not applied).
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
