"""Look at each image once: the part of the stage that runs in worker processes.

A part is a run of places in the segments; its result is a list of `Inspection`, one a place, which
holds everything that later steps need to know of an image. Nothing else ever reads the pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

from pipeline.dedupe.phash import portray
from pipeline.errors import ContractError
from pipeline.raster import DecodeError, Pixels, TooLargeError, decode_image, hash_pixels

# Raised when the same bytes would give another `Inspection`: old ones are then made again.
INSPECTION_VERSION = 1

# The finest measure of what an image prompt gave: rows of the 32×32 grid of image tokens.
TOKEN_ROWS = 32
BAND_BYTES = 8

Status = Literal["ok", "not_decodable", "too_large", "decoder_crashed"]


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
    bands: bytes | None = None


def inspect_part(part: InspectionPart) -> list[Inspection]:
    """Inspect the images of a part.

    Raises ContractError where a segment does not hold the bytes that the ledger promises.
    """
    found: list[Inspection] = []
    for segment, places in _by_segment(part.places):
        with _open_segment(part.segments / segment) as descriptor:
            for place in places:
                data = _read_place(descriptor, place, part.segments)
                found.append(inspect_image(place, data, max_pixels=part.max_pixels))
    return found


def inspect_image(place: Place, data: bytes, *, max_pixels: int) -> Inspection:
    """Decode one file and describe it."""
    try:
        raster = decode_image(data, max_pixels=max_pixels)
    except TooLargeError as error:
        return Inspection(
            place.sha256, "too_large", str(error), width=error.width, height=error.height
        )
    except DecodeError as error:
        return Inspection(place.sha256, "not_decodable", str(error))
    pixels_HWC = raster.pixels_HWC
    portrait = portray(pixels_HWC)
    return Inspection(
        place.sha256,
        "ok",
        None,
        raster.format,
        pixels_HWC.shape[1],
        pixels_HWC.shape[0],
        raster.mode,
        raster.has_alpha,
        hash_pixels(pixels_HWC),
        portrait.phash,
        *portrait.mean,
        portrait.is_blank,
        hash_bands(pixels_HWC) if place.masked else None,
    )


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


def _by_segment(places: Sequence[Place]) -> Iterator[tuple[str, list[Place]]]:
    run: list[Place] = []
    for place in places:
        if run and run[0].segment != place.segment:
            yield run[0].segment, run
            run = []
        run.append(place)
    if run:
        yield run[0].segment, run


@contextmanager
def _open_segment(path: Path) -> Iterator[int]:
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise ContractError(
            f"The ledger says that images lie in segment {path.name}, but {path} can't be opened "
            f"({error.strerror}). Bring the segment back, or fetch its images again."
        ) from error
    with closing(file):
        yield file.fileno()


def _read_place(descriptor: int, place: Place, segments: Path) -> bytes:
    data = os.pread(descriptor, place.bytes, place.offset)
    if len(data) != place.bytes or hashlib.sha256(data).hexdigest() != place.sha256:
        raise ContractError(
            f"Segment {segments / place.segment} does not hold at byte {place.offset} the "
            f"{place.bytes} bytes with hash {place.sha256[:12]}… that the ledger promises: it was "
            "cut or changed. Bring the segment back, or fetch its images again."
        )
    return data
