"""The orientation of an image, from EXIF or XMP; unreadable metadata never make the image unusable.

Only this one tag is read, so other damage in the metadata is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from PIL import Image

from pipeline.core.image_files import boxes, jpeg, png, riff, tiff

# Values 2 to 8 of the EXIF tag (CIPA DC-008, 4.6.5.1.6).
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EXIF_PREFIX = re.compile(rb"(Exif\x00\x00)+")
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MAX_METADATA_BYTES = 4 * 2**20
# The texts of a PNG that may name an orientation.
_EXIF_TEXT, _XMP_TEXT = b"Raw profile type exif", b"XML:com.adobe.xmp"

# The EXIF and the XMP of a file.
Metadata = tuple[bytes | None, bytes | None]


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """The image rotated or mirrored by its orientation."""
    method = _TURNS.get(orientation)
    return image if method is None else image.transpose(method)


def orientation_of(data: bytes, info: Mapping[str | tuple[int, int], object]) -> int:
    """The orientation of a file, 1 to 8; 1 if none can be read. `info` is what Pillow found in the file.

    EXIF takes precedence over XMP. HEIC and JPEG XL have their own orientation, which their decoders apply.
    """
    if data.startswith(png.SIGNATURE):
        metadata = _metadata_of_png(data)
    elif data.startswith(jpeg.SIGNATURE):
        metadata = _metadata_of_jpeg(data)
    elif riff.is_webp(data):
        metadata = _metadata_of_webp(data)
    elif data.startswith(tiff.SIGNATURES):
        metadata = data, _as_bytes(info.get("xmp"))
    elif boxes.brand_of(data) == "avif":
        metadata = _as_bytes(info.get("exif")), _as_bytes(info.get("xmp"))
    else:
        metadata = None, None
    return read_orientation(*metadata)


def read_orientation(exif: bytes | None, xmp: bytes | None = None) -> int:
    """The orientation in this metadata."""
    directory = None if exif is None else tiff.read_directory(_EXIF_PREFIX.sub(b"", exif, count=1))
    if directory is not None and (values := directory.numbers(tiff.ORIENTATION)):
        return values[0] if 1 <= values[0] <= 8 else 1
    found = _XMP_ORIENTATION.search(xmp or b"")
    return int(found[1]) if found and found[1] in b"12345678" else 1


def may_turn_png(data: bytes, chunk: png.Chunk) -> bool:
    """Whether a chunk of a PNG may name an orientation."""
    is_text = any(png.is_text(data, chunk, keyword) for keyword in (_EXIF_TEXT, _XMP_TEXT))
    return chunk.name == b"eXIf" or is_text


def _metadata_of_jpeg(data: bytes) -> Metadata:
    parts = [
        data[segment.start : segment.end]
        for segment in jpeg.walk_segments(data)
        if segment.marker == jpeg.APP1
    ]
    exif = next((part for part in parts if part.startswith(b"Exif\0\0")), None)
    return exif, next((part for part in parts if part.startswith(_XMP_PREFIX)), None)


def _metadata_of_webp(data: bytes) -> Metadata:
    chunks = {chunk.name: data[chunk.start : chunk.end] for chunk in riff.walk_riff(data)}
    return chunks.get(b"EXIF"), chunks.get(b"XMP ")


def _metadata_of_png(data: bytes) -> Metadata:
    exif = next(
        (png.chunk_data(data, chunk) for chunk in png.walk_chunks(data) if chunk.name == b"eXIf"),
        None,
    )
    if exif is None:
        exif = _raw_profile(_text(data, _EXIF_TEXT))
    return exif, _text(data, _XMP_TEXT)


def _text(data: bytes, keyword: bytes) -> bytes | None:
    return png.find_text(data, keyword, max_bytes=_MAX_METADATA_BYTES)


def _raw_profile(text: bytes | None) -> bytes | None:
    """EXIF from a text as ImageMagick writes it: a name, a length, and hex digits."""
    if text is None:
        return None
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return None


def _as_bytes(value: object) -> bytes | None:
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) else None
