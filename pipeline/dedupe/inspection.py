"""Look at each image once: the part of the stage that runs in worker processes.

A part is a run of places in the segments; its result is a list of `Inspection`, one a place, which
holds everything that later steps need to know of an image. Nothing else ever reads the pixels.
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
from pipeline.core.kept_images import ImagePlace, read_image
from pipeline.dedupe.phash import Miniature, make_miniature, portray

# Raised when the same bytes would give another `Inspection`: old ones are then made again.
INSPECTION_VERSION = 2

# The finest measure of what an image prompt gave: rows of the 32×32 grid of image tokens.
TOKEN_ROWS = 32
BAND_BYTES = 8

Status = Literal["ok", "not_decodable", "missing_decoder", "too_large", "decoder_crashed"]


class Place(NamedTuple):
    """Where the bytes of an image lie, and whether its upper part was given (`masked`)."""

    sha256: str
    segment: str
    offset: int
    bytes: int
    masked: bool


class InspectionPart(NamedTuple):
    """Images for one worker, in the order in which they lie."""

    segments: Path
    max_pixels: int
    places: tuple[Place, ...]


class Inspection(NamedTuple):
    """What was found in the bytes with this hash; the fields after `detail` are null unless ok."""

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

    Raises ContractError where a segment does not hold the bytes that the ledger promises.
    """
    looks = []
    for place in part.places:
        at = ImagePlace(place.segment, place.offset, place.bytes, place.sha256)
        data = read_image(part.segments, at)
        looks.append(_look_at(place, data, max_pixels=part.max_pixels))
    return list(_with_portraits(looks))


class _Look(NamedTuple):
    """An inspection that lacks its portrait, which many images get together."""

    found: Inspection
    miniature: Miniature | None


def _with_portraits(looks: Sequence[_Look]) -> Iterator[Inspection]:
    portraits = iter(portray([look.miniature for look in looks if look.miniature is not None]))
    for found, miniature in looks:
        if miniature is None:
            yield found
        else:
            phash, (red, green, blue), is_blank = next(portraits)
            yield found._replace(
                phash=phash, mean_red=red, mean_green=green, mean_blue=blue, is_blank=is_blank
            )


def _look_at(place: Place, data: bytes, *, max_pixels: int) -> _Look:
    """Decode one file and describe it."""
    sha256 = place.sha256
    try:
        raster = decode_image(data, max_pixels=max_pixels)
    except TooLargeError as error:
        found = Inspection(sha256, "too_large", str(error), width=error.width, height=error.height)
        return _Look(found, None)
    except MissingDecoderError as error:
        return _Look(Inspection(sha256, "missing_decoder", str(error)), None)
    except DecodeError as error:
        return _Look(Inspection(sha256, "not_decodable", str(error)), None)
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
    return _Look(found, make_miniature(pixels_HWC))


def hash_bands(pixels_HWC: Pixels) -> bytes:
    """For k = 1..32 eight bytes that hash the upper k/32 of the rows: equal tops, equal starts."""
    height = pixels_HWC.shape[0]
    running = hashlib.blake2b(digest_size=BAND_BYTES)
    hashes = []
    for band in range(TOKEN_ROWS):
        rows = pixels_HWC[band * height // TOKEN_ROWS : (band + 1) * height // TOKEN_ROWS]
        running.update(rows.tobytes())
        hashes.append(running.digest())
    return b"".join(hashes)
