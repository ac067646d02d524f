"""The image of a sample: the bytes as fetched, or a PNG or JPEG of the pixels that were encoded."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from pipeline.core.errors import ConfigError
from pipeline.core.image_decode import decode_image, is_plain_png
from pipeline.core.kept_images import StoredImage, read_image

_EXTENSIONS = {"jpeg": "jpg"}
_FORMS = ("none", "original", "png")


def check_form(images: str) -> None:
    """Raise ConfigError for an unknown value of --images."""
    name, _, quality = images.partition(":")
    is_jpeg = name == "jpg" and quality.isascii() and quality.isdecimal()
    if images not in _FORMS and not (is_jpeg and 1 <= int(quality[:4]) <= 100):
        raise ConfigError(
            f"--images {images!r} is not known: expected none, original, png, or jpg:QUALITY (1..100)."
        )


def load_image(segments: Path, place: bytes, form: str) -> tuple[str, bytes]:
    """The extension and bytes of an image, in a form of --images.

    `place` is JSON: segment, offset, bytes, hash, format. In the forms png and jpg every reader sees the
    raster that dedupe hashed and the codec encoded: EXIF orientation applied, over white, 8 bits. Raises
    ContractError if the raw store no longer holds the bytes that dedupe inspected.
    """
    *where, file_format = json.loads(place)
    data = read_image(segments, StoredImage(*where))
    if form == "original":
        return _EXTENSIONS.get(file_format, file_format), data
    if form == "png":
        return "png", data if is_plain_png(data) else _encode(data, "PNG")
    return "jpg", _encode(data, "JPEG", quality=int(form.partition(":")[2]))


def _encode(data: bytes, file_format: str, **options: int) -> bytes:
    output = io.BytesIO()
    Image.fromarray(decode_image(data).pixels_HWC).save(output, file_format, **options)
    return output.getvalue()
