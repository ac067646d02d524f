"""What a body is, by its bytes: the image format, whether it is complete, and what is odd. Pure.

All formats that `pipeline.core.image_decode` can decode are known here. Only the outer structure is read:
damage inside a complete file is found later, by decoding it. The exception is a JPEG without its end marker,
which is complete if its last row is there, as only a decoder can tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from pipeline.core.image_files import bmp, boxes, gif, jpeg, png, riff, tiff

ImageFormat = Literal["png", "jpg", "gif", "webp", "bmp", "tiff", "avif", "heic", "jxl"]

Flaw = Literal[
    "trailing_bytes",  # there is something after the end of the image
    "no_end",  # a JPEG or GIF that lacks only its end marker
    "unpadded",  # a WebP whose last chunk lacks its pad byte
]

_IEND = b"\x00\x00\x00\x00IEND\xaeB`\x82"
# A body that is cut off within its signature is an image that ends early, too.
_SIGNATURES = (png.SIGNATURE, b"GIF89a", jpeg.SIGNATURE)


class Sniffed(NamedTuple):
    """`format` is None for what is not an image; `whole` means that its end is there.

    `flaw` is an oddity of a complete image: decoders read it all the same.
    """

    format: ImageFormat | None
    whole: bool
    flaw: Flaw | None = None


class _Look(NamedTuple):
    whole: bool
    flaw: Flaw | None = None


_WHOLE, _CUT, _TRAILED = _Look(True), _Look(False), _Look(True, "trailing_bytes")


def sniff(body: bytes) -> Sniffed:
    """Identify the format of `body` by its signature and check its end."""
    found = _name_format(body)
    if found is not None:
        return Sniffed(found, *_LOOKS[found](body))
    cut = len(body) > 0 and any(mark.startswith(body) for mark in _SIGNATURES)
    return Sniffed("png" if cut else None, False)


def _name_format(body: bytes) -> ImageFormat | None:
    if body.startswith(png.SIGNATURE):
        return "png"
    if body.startswith(jpeg.SIGNATURE):
        return "jpg"
    if body.startswith(gif.SIGNATURES):
        return "gif"
    if riff.is_webp(body):
        return "webp"
    if body.startswith((boxes.JXL_CONTAINER, boxes.JXL_CODESTREAM)):
        return "jxl"
    if body.startswith(tiff.SIGNATURES):
        return "tiff"
    brand = boxes.brand_of(body)
    if brand is not None:
        return "avif" if brand == "avif" else "heic"
    return "bmp" if bmp.is_bmp(body) else None


def _look_at_png(body: bytes) -> _Look:
    if body.endswith(_IEND):
        return _WHOLE
    ended = any(chunk.name == b"IEND" for chunk in png.walk_chunks(body))
    return _TRAILED if ended else _CUT


def _look_at_jpeg(body: bytes) -> _Look:
    if body.endswith(jpeg.END):
        return _WHOLE
    if jpeg.find_end(body) is not None:
        return _TRAILED
    if not jpeg.has_scan(body):
        return _CUT
    from pipeline.core.image_decode import (
        ends_early,  # Pillow and numpy, which few crawls need
    )

    return _CUT if ends_early(body) else _Look(True, "no_end")


def _look_at_gif(body: bytes) -> _Look:
    if body.endswith(b"\0;"):  # the end of the last block, and the trailer
        return _WHOLE
    kinds: set[str] = set()
    end = 0
    for block in gif.walk_gif(body):
        kinds.add(block.kind)
        end = block.end
    if "trailer" in kinds:
        return _WHOLE if end == len(body) else _TRAILED
    return _Look(True, "no_end") if "image" in kinds and end == len(body) else _CUT


def _look_at_webp(body: bytes) -> _Look:
    if riff.lacks_padding(body):
        return _Look(True, "unpadded")
    size = riff.promised_size(body)
    if len(body) < size:
        return _CUT
    return _WHOLE if len(body) <= size + size % 2 else _TRAILED


def _look_at_bmp(body: bytes) -> _Look:
    if len(body) < bmp.needed_bytes(body):
        return _CUT
    stated = int.from_bytes(body[2:6], "little")
    return _TRAILED if bmp.needed_bytes(body) <= stated < len(body) else _WHOLE


def _look_at_tiff(body: bytes) -> _Look:
    """Complete if it contains what its first image needs; the rest doesn't matter."""
    directory = tiff.read_directory(body)
    if directory is None:
        return _CUT
    for offsets, sizes in (
        (tiff.STRIP_OFFSETS, tiff.STRIP_BYTES),
        (tiff.TILE_OFFSETS, tiff.TILE_BYTES),
    ):
        places = directory.numbers(offsets)
        lengths = directory.numbers(sizes) or (1,) * len(places)  # some writers omit the lengths
        if places:
            ends = (at + size for at, size in zip(places, lengths, strict=False))
            return _WHOLE if max(ends) <= len(body) else _CUT
    return _CUT


def _look_at_boxes(body: bytes) -> _Look:
    needed = {b"mdat", b"jxlc", b"jxlp"}
    seen: set[bytes] = set()
    for box in boxes.walk_boxes(body):
        if box.end > len(body):
            return _TRAILED if seen & needed and not box.kind.isalnum() else _CUT
        seen.add(box.kind)
        if box.kind == b"meta" and b"idat" in _kinds_within(body, box):
            seen.add(b"mdat")
        end = box.end
    if not seen & needed:
        return _CUT
    return _WHOLE if end == len(body) else _TRAILED


def _kinds_within(body: bytes, meta: boxes.Box) -> set[bytes]:
    """The boxes in a `meta` box, which begin after its version and flags."""
    return {box.kind for box in boxes.walk_boxes(body, meta.start + 4, meta.end)}


def _look_at_jxl(body: bytes) -> _Look:
    """A bare codestream has no length."""
    return _look_at_boxes(body) if body.startswith(boxes.JXL_CONTAINER) else _WHOLE


_LOOKS: dict[ImageFormat, Callable[[bytes], _Look]] = {
    "png": _look_at_png,
    "jpg": _look_at_jpeg,
    "gif": _look_at_gif,
    "webp": _look_at_webp,
    "bmp": _look_at_bmp,
    "tiff": _look_at_tiff,
    "avif": _look_at_boxes,
    "heic": _look_at_boxes,
    "jxl": _look_at_jxl,
}
