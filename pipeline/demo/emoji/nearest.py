"""The measure of `pipeline emoji`: which real emoji is nearest to a generated image?

It should be the one that the prompt names. Images are compared as 32×32 RGB pixels, by the Euclidean
distance, with all kept emoji. The same measure on the codec's reconstructions is the most that any model of
its codes could reach.

Legend: E emoji, G images to compare, P = 32·32·3 values of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.core.errors import REPAIR
from pipeline.core.image_decode import Pixels, decode_image
from pipeline.core.kept_images import (
    STORED_IMAGE_COLUMNS,
    StoredImage,
    kept_tables,
    read_image,
    read_tables,
    stored_image,
)
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import read_json_lines, read_small_file
from pipeline.core.workspace import Workspace

SIDE = 32
_RECONSTRUCTED = 400  # emoji that the codec is measured on
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class KnownEmoji:
    """All kept emoji: vectors [E, P], and the caption, the section and the place of each."""

    vectors_EP: Vectors
    captions: tuple[str, ...]
    sections: tuple[str, ...]
    places: tuple[StoredImage, ...]

    @property
    def same_section_by_chance(self) -> float:
        """How often two emoji drawn at random are of the same section."""
        counts = np.unique(self.sections, return_counts=True)[1]
        return float(np.square(counts / len(self.sections)).sum())


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Shares (0..1) of images for which the nearest emoji, or one of the ten nearest, is the one named, and
    for which the nearest is at least of its section.
    """

    first: float
    among_ten: float
    same_section: float


@dataclass(frozen=True, kw_only=True)
class _GeneratedImage:
    """The fields that are read from a line of `records.jsonl`."""

    prompt: str
    file: str


def to_vector(pixels_HWC: Pixels) -> Vectors:
    """An image as float32 [P] in 0..255."""
    image = Image.fromarray(pixels_HWC).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(image, dtype=np.float32).reshape(-1)


def load_known(workspace: Workspace) -> KnownEmoji:
    """Decode all kept images of the workspace."""
    columns = ("caption", "section", *STORED_IMAGE_COLUMNS)
    rows = [
        row
        for part in read_tables(kept_tables(workspace), columns, 4096)
        for row in part.to_pylist()
    ]
    places = tuple(map(stored_image, rows))
    images = (decode_image(read_image(workspace.segments, place)) for place in places)
    return KnownEmoji(
        vectors_EP=np.stack([to_vector(image.pixels_HWC) for image in images]),
        captions=tuple(row["caption"] for row in rows),
        sections=tuple(row["section"] for row in rows),
        places=places,
    )


def compare(known: KnownEmoji, vectors_GP: Vectors, captions: Sequence[str]) -> Nearest:
    """How near each vector is to the emoji that its caption names."""
    own_G = np.array([known.captions.index(caption) for caption in captions])
    distances_GE = _distances(vectors_GP, known.vectors_EP)
    own_distance_G1 = np.take_along_axis(distances_GE, own_G[:, None], axis=1)
    nearer_G = (distances_GE < own_distance_G1).sum(axis=1)
    sections_E = np.array(known.sections)
    same_G = sections_E[distances_GE.argmin(axis=1)] == sections_E[own_G]
    return Nearest(
        first=float((nearer_G == 0).mean()),
        among_ten=float((nearer_G < 10).mean()),
        same_section=float(same_G.mean()),
    )


def compare_generated(known: KnownEmoji, folder: Path) -> Nearest:
    """How near the images of a `generated/` folder are to the emoji that their prompts name."""
    source = folder / "records.jsonl"
    records = read_json_lines(source, _GeneratedImage, remedy=REPAIR)
    files = (path_inside(folder, record.file, source=source) for record in records)
    vectors = [to_vector(decode_image(read_small_file(file)).pixels_HWC) for file in files]
    return compare(known, np.stack(vectors), [record.prompt for record in records])


def compare_reconstructions(known: KnownEmoji, workspace: Workspace, codec: str) -> Nearest:
    """How near some of the emoji are to what a codec of the workspace makes of them."""
    from pipeline.models.codecs.load import load_codec
    from pipeline.models.codecs.pixels import read_square, to_images, to_pixels

    model = load_codec(workspace.codec(codec))
    chosen = range(0, len(known.places), max(1, len(known.places) // _RECONSTRUCTED))
    squares_GHWC = np.stack(
        [
            read_square(read_image(workspace.segments, known.places[number]), model.image_size)
            for number in chosen
        ]
    )
    decoded_GHWC = to_pixels(model.decode(model.encode(to_images(squares_GHWC))))
    vectors_GP = np.stack([to_vector(pixels) for pixels in decoded_GHWC])
    return compare(known, vectors_GP, [known.captions[number] for number in chosen])


def _distances(vectors_GP: Vectors, known_EP: Vectors) -> Vectors:
    """Squared Euclidean distances [G, E]."""
    return np.stack([np.square(known_EP - vector_P).sum(axis=1) for vector_P in vectors_GP])
