"""Inspect each image once: the part of the stage that runs in worker processes.

A part is a list of image locations in the segments; its result is one `Inspection` per image, which holds
everything that later steps need to know. The pixels are not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.core.image_decode import (
    DecodeError,
    MissingDecoderError,
    Pixels,
    TooLargeError,
    decode_image,
    hash_pixels,
    looks_cut,
)
from pipeline.core.kept_images import StoredImage, read_image
from pipeline.dedupe.phash import Miniature, compute_stats, make_miniature

# Raised when the same bytes would yield a different `Inspection`; older ones are then computed again.
INSPECTION_VERSION = 4

# Resolution at which the prompted part is measured: rows of the 32×32 grid of image tokens.
TOKEN_ROWS = 32
BAND_BYTES = 8

Status = Literal["ok", "not_decodable", "missing_decoder", "too_large", "decoder_crashed"]


class ImageLocation(NamedTuple):
    """Where the bytes of an image are, and whether its upper part was prompted (`masked`)."""

    sha256: str
    segment: str
    offset: int
    bytes: int
    masked: bool


class InspectionPart(NamedTuple):
    """Images for one worker, in the order of their offsets."""

    segments: Path
    max_pixels: int
    places: tuple[ImageLocation, ...]


class Inspection(NamedTuple):
    """The facts found in the bytes with this hash; fields after `detail` are null unless `status` is ok."""

    sha256: str
    status: Status
    detail: str | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    has_alpha: bool | None = None
    pixel_sha256: str | None = None
    phash: int | None = None
    mean_red: float | None = None
    mean_green: float | None = None
    mean_blue: float | None = None
    is_blank: bool | None = None
    looks_cut: bool | None = None
    bands: bytes | None = None


def inspect_part(part: InspectionPart) -> list[Inspection]:
    """Inspect the images of a part.

    Raises ContractError if a segment does not hold the bytes that the ledger describes.
    """
    decoded = []
    for place in part.places:
        at = StoredImage(place.segment, place.offset, place.bytes, place.sha256)
        data = read_image(part.segments, at)
        decoded.append(_decode(place, data, max_pixels=part.max_pixels))
    return list(_add_stats(decoded))


class _Decoded(NamedTuple):
    """An inspection without hash and colours, which are computed for many images at once."""

    found: Inspection
    miniature: Miniature | None


def _add_stats(decoded: Sequence[_Decoded]) -> Iterator[Inspection]:
    stats = iter(compute_stats([each.miniature for each in decoded if each.miniature is not None]))
    for found, miniature in decoded:
        if miniature is None:
            yield found
        else:
            phash, (red, green, blue), is_blank = next(stats)
            yield found._replace(
                phash=phash, mean_red=red, mean_green=green, mean_blue=blue, is_blank=is_blank
            )


def _decode(place: ImageLocation, data: bytes, *, max_pixels: int) -> _Decoded:
    """Decode one file and describe it."""
    sha256 = place.sha256
    try:
        raster = decode_image(data, max_pixels=max_pixels)
    except TooLargeError as error:
        found = Inspection(sha256, "too_large", str(error), width=error.width, height=error.height)
        return _Decoded(found, None)
    except MissingDecoderError as error:
        return _Decoded(Inspection(sha256, "missing_decoder", str(error)), None)
    except DecodeError as error:
        return _Decoded(Inspection(sha256, "not_decodable", str(error)), None)
    pixels_HWC = raster.pixels_HWC
    found = Inspection(
        sha256,
        "ok",
        format=raster.format,
        width=pixels_HWC.shape[1],
        height=pixels_HWC.shape[0],
        mode=raster.mode,
        has_alpha=raster.has_alpha,
        pixel_sha256=hash_pixels(pixels_HWC),
        looks_cut=looks_cut(data, pixels_HWC),
        bands=hash_bands(pixels_HWC) if place.masked else None,
    )
    return _Decoded(found, make_miniature(pixels_HWC))


def hash_bands(pixels_HWC: Pixels) -> bytes:
    """32 hashes of eight bytes; number k covers the upper k/32 of the rows, so equal tops match."""
    height = pixels_HWC.shape[0]
    running = hashlib.blake2b(digest_size=BAND_BYTES)
    hashes = []
    for band in range(TOKEN_ROWS):
        rows = pixels_HWC[band * height // TOKEN_ROWS : (band + 1) * height // TOKEN_ROWS]
        running.update(rows.tobytes())
        hashes.append(running.digest())
    return b"".join(hashes)
