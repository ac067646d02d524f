"""The signals in the bytes of an image, and the user's list of hashes. Pure."""

from __future__ import annotations

from collections.abc import Callable

from pipeline.core.image_files import jpeg, png
from scrapers.fetch.optouts.listed import OptOutList
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import ImageFormat

_PNG_CHUNKS = frozenset({b"iTXt", b"tEXt", b"zTXt", b"caBX"})
_JPEG_SEGMENTS = frozenset({jpeg.APP1, jpeg.APP11})


def refusal_finder(
    listed: OptOutList, *, ignore_opt_out: bool
) -> Callable[[bytes, bytes, ImageFormat | None], Refusal | None]:
    """A function of bytes, their SHA-256 and their format that returns who refuses them.

    `ignore_opt_out`: only the list does.
    """

    def heed(body: bytes, sha256: bytes, kind: ImageFormat | None) -> Refusal | None:
        found = listed.bytes_refusal(sha256)
        if found is not None or ignore_opt_out or kind is None:
            return found
        return find_in_bytes(body, kind)

    return heed


def find_in_bytes(body: bytes, kind: ImageFormat) -> Refusal | None:
    """What the metadata of an image refuses; None if nothing, or nothing readable."""
    if not _has_metadata(body, kind):
        return None
    from scrapers.fetch.optouts.jumbf import find_training_mining
    from scrapers.fetch.optouts.xmp import (
        find_data_mining,  # lxml, which most crawls don't need
    )

    return find_data_mining(body, kind) or find_training_mining(body, kind)


def _has_metadata(body: bytes, kind: ImageFormat) -> bool:
    """Whether a closer look is worth its time; for most images it isn't."""
    if kind == "png":
        return png.has_chunk(body, _PNG_CHUNKS)
    if kind == "jpg":
        return any(segment.marker in _JPEG_SEGMENTS for segment in jpeg.walk_segments(body))
    return True
