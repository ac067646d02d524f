"""Pair images with caption files as DALLE-pytorch does: by stem, wherever in the tree they are.

A caption file in the same folder comes first, so that equal names in different folders stay apart.
Otherwise the file whose folders resemble the image's most counts: `texts/cats/1.txt` for `images/cats/1.png`.
Of several images for one caption file one counts, in DALLE-pytorch's order; the others are left out and
counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from scrapers.sources.folder.listing import CAPTION, IMAGE, Listed, Listing
from scrapers.sources.remarks import Remarks

NO_CAPTION = "Images without a caption"
SHADOWED = "Files left out for another one of the same name, which is in brackets"
_MAX_COMPARED = 1_000_000
_UNPAIRED = """
CREATE TABLE unpaired(
  folder TEXT NOT NULL, stem TEXT NOT NULL, suffix TEXT NOT NULL, kind INTEGER NOT NULL,
  bytes INTEGER NOT NULL, mtime INTEGER NOT NULL)
"""


class Pair(NamedTuple):
    """An image and its caption file."""

    image: Listed
    caption: Listed


def pair_files(listing: Listing, remarks: Remarks) -> Iterator[Pair]:
    """The pairs of a listing: first those within a folder, then those across folders."""
    listing.database.execute(_UNPAIRED)
    for _, group in groupby(listing.files(), key=lambda file: (file.folder, file.stem)):
        images, captions = _by_kind(group)
        if images and captions:
            yield Pair(_best(images, remarks), _best(captions, remarks))
        else:
            listing.database.executemany(
                "INSERT INTO unpaired VALUES(?, ?, ?, ?, ?, ?)", images or captions
            )
    rows = listing.database.execute("SELECT * FROM unpaired ORDER BY stem, folder, suffix")
    for _, group in groupby(map(Listed._make, rows), key=lambda file: file.stem):
        yield from _match(*_by_kind(group), remarks)


def _by_kind(files: Iterable[Listed]) -> tuple[list[Listed], list[Listed]]:
    found: dict[int, list[Listed]] = {IMAGE: [], CAPTION: []}
    for file in files:
        found[file.kind].append(file)
    return found[IMAGE], found[CAPTION]


def _best(files: list[Listed], remarks: Remarks) -> Listed:
    best = max(files, key=lambda file: file.rank)
    for file in files:
        if file is not best:
            remarks.note(SHADOWED, f"{file.name} ({best.name})")
    return best


def _match(images: list[Listed], captions: list[Listed], remarks: Remarks) -> Iterator[Pair]:
    """The pairs of one stem across folders."""
    if not captions:
        for image in images:
            remarks.note(NO_CAPTION, image.name)
        return
    chosen: dict[Listed, list[Listed]] = {}
    for image in images:
        chosen.setdefault(_nearest(image, captions, len(images)), []).append(image)
    for caption in captions:
        if caption in chosen:
            yield Pair(_best(chosen[caption], remarks), caption)
        else:
            remarks.note("Caption files without an image", caption.name)


def _nearest(image: Listed, captions: list[Listed], num_images: int) -> Listed:
    """The caption file whose folders agree most with the image's, from the last one on."""
    if len(captions) * num_images > _MAX_COMPARED:
        return max(captions, key=lambda caption: caption.rank)
    return max(captions, key=lambda caption: (_agreement(image, caption), caption.rank))


def _agreement(image: Listed, caption: Listed) -> int:
    parts = zip(
        reversed(image.folder.split("/")), reversed(caption.folder.split("/")), strict=False
    )
    number = 0
    for one, other in parts:
        if one != other:
            break
        number += 1
    return number
