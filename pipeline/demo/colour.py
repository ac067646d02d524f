"""The demo's colour score: the share of images whose main colour is the one that the prompt names.

It says nothing about shapes: a blue blob for "a blue pear" is right.

The main colour is the palette colour nearest to most pixels in the middle of the image (where the object is),
at 64×64. Only the colours that captions of the section can name are candidates. The same metric on the
scraped originals, whose colours are correct by construction, shows how reliable it is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.image_decode import decode_image
from pipeline.core.kept_images import (
    STORED_IMAGE_COLUMNS,
    kept_tables,
    read_image,
    read_tables,
    stored_image,
)
from pipeline.core.text_files import split_lines
from pipeline.core.workspace import Workspace
from pipeline.demo.replica.palette import PALETTE, colours_named

CANDIDATES = ("black", "blue", "magenta", "pink", "white")
SIDE = 64
MIDDLE = slice(SIDE // 4, SIDE - SIDE // 4)
SCRAPED_SAMPLE = 400


def main_colour(image: Image.Image) -> str:
    """The name of the palette colour nearest to most pixels in the middle of the image.

    Pixels nearest to a palette colour that is not a candidate don't count.
    """
    small = np.asarray(
        image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32
    )
    pixels = small[MIDDLE, MIDDLE].reshape(-1, 1, 3)
    names = tuple(PALETTE)
    table = np.array([PALETTE[name] for name in names], dtype=np.float32)[None]
    nearest = np.square(pixels - table).sum(axis=-1).argmin(axis=1)
    counts = np.bincount(nearest, minlength=len(names))
    return max(CANDIDATES, key=lambda name: int(counts[names.index(name)]))


def share_generated(folder: Path, prompts: Collection[str]) -> float:
    """Share of the images in a `generated/` folder whose main colour is the first that the prompt names.

    Only images of `prompts` count: the score is not defined for those that name the colour of a detail.
    """
    text = (folder / "records.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in split_lines(text)]
    return _share(
        (record["prompt"], (folder / record["file"]).read_bytes())
        for record in records
        if record["prompt"] in prompts
    )


def share_scraped(workspace: Workspace, section: str = "unusual_media") -> float:
    """The same share for a sample of a few hundred kept images of a section."""
    columns = ("section", "caption", *STORED_IMAGE_COLUMNS)
    kept = [
        row
        for rows in read_tables(kept_tables(workspace), columns, 4096)
        for row in rows.to_pylist()
        if row["section"] == section
    ]
    rows = kept[:: max(1, len(kept) // SCRAPED_SAMPLE)]
    return _share(
        (row["caption"], read_image(workspace.segments, stored_image(row))) for row in rows
    )


def _share(images: Iterable[tuple[str, bytes]]) -> float:
    right = [
        main_colour(Image.fromarray(decode_image(data).pixels_HWC)) == colours_named(text)[0]
        for text, data in images
    ]
    return sum(right) / max(1, len(right))
