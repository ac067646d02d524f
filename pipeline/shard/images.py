"""The picture of a sample: the bytes as fetched, or a JPEG of them."""

from __future__ import annotations

import io
import json
from pathlib import Path

from PIL import Image

from pipeline.errors import ConfigError, ContractError
from pipeline.storage import read_slice, sha256_bytes

_EXTENSIONS = {"jpeg": "jpg"}


def jpeg_quality(images: str) -> int | None:
    """The quality that `jpg:QUALITY` asks for, None for `none` and `original`.

    Raises ConfigError for anything else.
    """
    if images in ("none", "original"):
        return None
    name, _, quality = images.partition(":")
    if name != "jpg" or not quality.isdecimal() or not 1 <= int(quality) <= 100:
        raise ConfigError(
            f"--images {images!r} is not known: expected none, original, or jpg:QUALITY (1..100)."
        )
    return int(quality)


def load_image(segments: Path, place: bytes, quality: int | None) -> tuple[str, bytes]:
    """Extension and bytes of a picture; `place` is JSON: segment, offset, bytes, format, sha256.

    Raises ContractError if the raw store does not hold what dedupe saw there.
    """
    segment, offset, length, image_format, sha256 = json.loads(place)
    data = read_slice(segments / segment, offset=offset, length=length)
    if sha256_bytes(data) != sha256:
        raise ContractError(
            f"{segments / segment} holds other bytes at {offset} than dedupe saw. "
            "Run `pipeline dedupe` again."
        )
    if quality is None:
        return _EXTENSIONS.get(image_format, image_format), data
    return "jpg", _as_jpeg(data, quality)


def _as_jpeg(data: bytes, quality: int) -> bytes:
    output = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image:
        image.convert("RGB").save(output, "JPEG", quality=quality)
    return output.getvalue()
