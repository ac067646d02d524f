"""A pen with its own coordinates, and the tones of a colour.

Every shape is drawn in a square from -1 to 1 (x to the right, y down); `Pen.at` puts a smaller square
into a larger one. No anti-aliasing: few colours, small files, the same bytes everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.demo.replica.palette import RGB

Points = Sequence[tuple[float, float]]

INK: RGB = (44, 44, 50)
PALE: RGB = (238, 238, 240)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """`first` mixed with a `share` (0..1) of `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return (red, green, blue)


def luminance(rgb: RGB) -> float:
    """Brightness, 0..255 (Rec. 601 weights)."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


@dataclass(frozen=True)
class Tone:
    """A colour with its darker and lighter tone."""

    main: RGB
    dark: RGB
    light: RGB

    @property
    def line(self) -> RGB:
        """A colour that contrasts with the main one, for eyes, seams, letters."""
        return PALE if luminance(self.main) < 90 else INK


def tone(main: RGB) -> Tone:
    """The tones of a colour; black gets a lighter shade, since there is no darker one."""
    dark = mix(main, (0, 0, 0), 0.28) if luminance(main) > 50 else mix(main, (255, 255, 255), 0.22)
    return Tone(main, dark, mix(main, (255, 255, 255), 0.3))


@dataclass(frozen=True)
class Pen:
    """Draws in a square from -1 to 1 with its centre at `x`, `y` and half side `unit`.

    `only`, if given, replaces every colour, which turns a silhouette into a mask.
    """

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    unit: float
    mirror: int = 1
    only: int | None = None

    def at(self, x: float, y: float, scale: float, *, mirror: bool = False) -> Pen:
        """A pen for a square centred at `x`, `y` and `scale` times as large."""
        side = -self.mirror if mirror else self.mirror
        centre_x, centre_y = self._place(x, y)
        return Pen(self.draw, centre_x, centre_y, self.unit * scale, side, self.only)

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """A filled ellipse around `x`, `y`."""
        self.draw.ellipse(self._corners(x - rx, y - ry, x + rx, y + ry), fill=self._ink(fill))

    def circle(self, x: float, y: float, r: float, fill: RGB) -> None:
        """A filled circle."""
        self.ellipse(x, y, r, r, fill)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: RGB, *, round_: float = 0
    ) -> None:
        """A filled rectangle between two corners, its own corners rounded by `round_`."""
        corners = self._corners(x0, y0, x1, y1)
        if round_:
            self.draw.rounded_rectangle(corners, round_ * self.unit, fill=self._ink(fill))
        else:
            self.draw.rectangle(corners, fill=self._ink(fill))

    def polygon(self, points: Points, fill: RGB) -> None:
        """A filled polygon."""
        self.draw.polygon([self._place(x, y) for x, y in points], fill=self._ink(fill))

    def line(self, points: Points, fill: RGB, width: float) -> None:
        """A line through `points` with round joints and ends; `width` is in the pen's unit."""
        pixels = max(1, round(width * self.unit))
        placed = [self._place(x, y) for x, y in points]
        self.draw.line(placed, fill=self._ink(fill), width=pixels, joint="curve")
        if pixels > 4:
            for x, y in (points[0], points[-1]):
                self.circle(x, y, width / 2, fill)

    def arc(
        self, centre: tuple[float, float], radii: tuple[float, float], span: tuple[float, float],
        fill: RGB, width: float,
    ) -> None:  # fmt: skip
        """An arc of an ellipse over `span` degrees, clockwise from the right."""
        (x, y), (rx, ry), (start, end) = centre, radii, span
        if self.mirror < 0:
            start, end = 180 - end, 180 - start
        pixels = max(1, round(width * self.unit))
        corners = self._corners(x - rx, y - ry, x + rx, y + ry)
        self.draw.arc(corners, start, end, fill=self._ink(fill), width=pixels)

    def leaf(
        self, x: float, y: float, length: float, fill: RGB, *, angle: float, width: float = 0.4
    ) -> None:
        """A pointed leaf from `x`, `y` towards `angle` degrees (0: up, 90: right)."""
        turn = math.radians(angle)
        ahead, aside = (math.sin(turn), -math.cos(turn)), (math.cos(turn), math.sin(turn))
        outline = [(0, 0), (0.3, 0.8), (0.6, 0.8), (1, 0), (0.6, -0.8), (0.3, -0.8)]
        half = width * length / 2
        self.polygon(
            [
                (x + ahead[0] * a * length + aside[0] * b * half,
                 y + ahead[1] * a * length + aside[1] * b * half)
                for a, b in outline
            ],
            fill,
        )  # fmt: skip

    def ring(self, count: int, radius: float, *, start: float = 0) -> list[tuple[float, float]]:
        """`count` points on a circle around the centre, the first at `start` degrees (0: up)."""
        turns = (math.radians(start + 360 * index / count) for index in range(count))
        return [(radius * math.sin(turn), -radius * math.cos(turn)) for turn in turns]

    def _place(self, x: float, y: float) -> tuple[float, float]:
        return self.x + x * self.unit * self.mirror, self.y + y * self.unit

    def _corners(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        left, top = self._place(x0, y0)
        right, bottom = self._place(x1, y1)
        return [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]

    def _ink(self, fill: RGB) -> RGB | int:
        return fill if self.only is None else self.only


def pen_on(image: Image.Image, *, only: int | None = None) -> Pen:
    """A pen whose square is a whole square image."""
    half = image.width / 2
    return Pen(ImageDraw.Draw(image), half, half, half, only=only)
