"""The sheet that an image is drawn on: its background, its pen, and the random numbers of its rank."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image

from pipeline.demo.replica.palette import RGB, squared_distance
from pipeline.demo.replica.shapes.canvas import Pen, Tone, mix, pen_on
from pipeline.demo.replica.shapes.subjects import digest_of

LIGHT_GROUND: RGB = (238, 238, 240)
DARK_GROUND: RGB = (46, 48, 54)
LAST_RANK = 31


class Sheet:
    """An image while it is drawn.

    `pen` is shifted and scaled a little, more for later ranks, and backgrounds are tinted by the rank, so
    no two ranks of a caption yield the same image. The content of the caption is unaffected.
    """

    def __init__(self, caption: str, rank: int, *, size: int) -> None:
        self.image = Image.new("RGB", (size, size), LIGHT_GROUND)
        self.rank = rank
        self._chance = digest_of("rank", caption, rank)
        self.page = pen_on(self.image)
        self.pen = self._moved(self.page)

    def chance(self, index: int) -> float:
        """A random number 0..1 with `index` (0..31), determined by caption and rank."""
        return self._chance[index % 32] / 255

    def word_chance(self, words: str, index: int = 0) -> float:
        """A random number 0..1 determined only by words, the same for every rank."""
        return digest_of("words", words)[index % 32] / 255

    def fill(self, colour: RGB) -> None:
        """Paint the background."""
        self.page.box(-1, -1, 1, 1, self.tint(colour))

    def ground_for(self, *colours: RGB) -> RGB:
        """Paint a neutral background that contrasts with these colours, and return it."""
        near_white = any(squared_distance(colour, LIGHT_GROUND) < 4900 for colour in colours)
        ground = DARK_GROUND if near_white else LIGHT_GROUND
        self.fill(ground)
        return ground

    def tint(self, colour: RGB) -> RGB:
        """`colour` in a slightly different shade for each of 64 ranks."""
        red, green, blue = ((self.rank >> shift & mask) * step for shift, mask, step in _TINTS)
        shifted = (colour[0] + red - 4, colour[1] + green - 4, colour[2] + blue - 4)
        low, middle, high = (min(255, max(0, value)) for value in shifted)
        return (low, middle, high)

    def paste_pattern(self, mask: Image.Image, pattern: Image.Image) -> None:
        """Paint a pattern where the mask is not 0."""
        self.image.paste(pattern, (0, 0), mask)

    def mask(self) -> tuple[Image.Image, Pen]:
        """An empty mask of the sheet's size, and a pen for it like the sheet's own."""
        image = Image.new("L", self.image.size, 0)
        return image, self._moved(pen_on(image, only=255))

    def _moved(self, pen: Pen) -> Pen:
        drift = 0.05 + 0.09 * min(self.rank, LAST_RANK) / LAST_RANK
        x, y = (self.chance(30) - 0.5) * drift, (self.chance(31) - 0.5) * drift
        return pen.at(x, y, 0.98 - self.chance(29) * drift)


# (shift, mask, step): two bits of the rank for each channel.
_TINTS = ((0, 3, 4), (2, 3, 4), (4, 3, 3))


@lru_cache(maxsize=256)
def pattern_of(kind: int, ink: Tone, *, size: int) -> Image.Image:
    """A texture of two tones: 0 dots, 1 stripes, 2 checks, 3 waves, 4 scales, 5 grain."""
    image = Image.new("RGB", (size, size), ink.main)
    pen = pen_on(image)
    step = 0.25
    for row in range(-4, 5):
        for column in range(-4, 5):
            _PATTERN_CELLS[kind % len(_PATTERN_CELLS)](
                pen.at(column * step, row * step, step), ink, row + column
            )
    return image


def _dot(pen: Pen, ink: Tone, _: int) -> None:
    pen.circle(0, 0, 0.26, ink.dark)


def _stripe(pen: Pen, ink: Tone, _: int) -> None:
    pen.box(-0.2, -0.5, 0.2, 0.5, ink.dark)


def _check(pen: Pen, ink: Tone, index: int) -> None:
    if index % 2:
        pen.box(-0.5, -0.5, 0.5, 0.5, ink.dark)


def _wave(pen: Pen, ink: Tone, _: int) -> None:
    pen.line([(-0.5, 0), (-0.25, -0.3), (0.25, 0.3), (0.5, 0)], ink.dark, 0.16)


def _scale(pen: Pen, ink: Tone, _: int) -> None:
    pen.arc((0, -0.3), (0.48, 0.6), (0, 180), ink.dark, 0.14)


def _grain(pen: Pen, ink: Tone, index: int) -> None:
    pen.line(
        [(-0.3, 0.3), (0.2, -0.2)], ink.dark if index % 2 else mix(ink.dark, ink.main, 0.5), 0.18
    )


_PATTERN_CELLS = (_dot, _stripe, _check, _wave, _scale, _grain)
