"""Draw the heads of animals, and faces that show a mood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.demo.replica.palette import RGB
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, Tone, tone
from pipeline.demo.replica.shapes.traits import Animal

BEAK: RGB = (246, 168, 36)


def draw_head(
    pen: Pen, animal: Animal, *, colour: RGB | None = None, mood: str = "", turned: bool = False
) -> None:
    """A head seen from the front; if `turned` away it has no face."""
    ink = tone(colour or animal.colour)
    _draw_ears(pen, animal.ears, ink)
    if animal.body == "box":
        pen.box(-0.72, -0.62, 0.72, 0.75, ink.main)
    else:
        pen.ellipse(0, 0.05, 0.8, 0.74, ink.main)
    if turned:
        return
    for extra in animal.extras:
        if extra in FEATURES:
            FEATURES[extra](pen, ink)
    lift = -0.66 if animal.ears == "eyes on top" else -0.12
    draw_face(pen, ink, mood=mood, eyes_y=lift, mouth="beak" not in animal.extras)


def _draw_ears(pen: Pen, ears: str, ink: Tone) -> None:
    for side in (-1, 1):
        _draw_ear(pen, ears, ink, side)
    if ears == "mane":
        pen.circle(0, 0.05, 0.98, tone(ink.dark).dark)
    elif ears == "comb":
        pen.polygon(
            [(-0.3, -0.5), (-0.3, -0.98), (0, -0.7), (0.1, -1.0), (0.35, -0.5)], (214, 32, 38)
        )
    elif ears == "antenna":
        pen.line([(0, -0.6), (0, -0.95)], ink.dark, 0.08)
        pen.circle(0, -0.95, 0.12, (214, 32, 38))


def _draw_ear(pen: Pen, ears: str, ink: Tone, side: int) -> None:
    """One of a pair of ears or horns, on the left (`side` −1) or right (1), if the animal has a pair."""
    if ears in _ELLIPSES:
        x, y, rx, ry = _ELLIPSES[ears]
        pen.ellipse(side * x, y, rx, ry, ink.main if ears == "eyes on top" else ink.dark)
    elif ears in _LINES:
        for *points, width in _LINES[ears]:
            shade = ink.light if ears == "antlers" else ink.dark
            pen.line([(side * x, y) for x, y in points], GILLS if ears == "gills" else shade, width)
    elif ears == "pointed":
        pen.polygon([(side * 0.2, -0.55), (side * 0.8, -1.0), (side * 0.78, -0.1)], ink.dark)
    elif ears == "fins":
        pen.polygon([(0, -1.1), (side * 0.7, -0.5), (0, -0.3)], ink.dark)


GILLS: RGB = (226, 90, 130)
# Centre and radii of the right ear; the left one is its mirror image.
_ELLIPSES: Mapping[str, tuple[float, float, float, float]] = {
    "round": (0.58, -0.5, 0.3, 0.3), "mane": (0.58, -0.5, 0.3, 0.3), "tall": (0.36, -0.8, 0.18, 0.5),
    "long": (0.36, -0.8, 0.18, 0.5), "floppy": (0.82, 0.1, 0.24, 0.56), "huge": (0.85, -0.1, 0.5, 0.6),
    "eyes on top": (0.4, -0.64, 0.3, 0.3),
}  # fmt: skip
# Points and width of the lines of the right one.
_LINES: Mapping[str, tuple[tuple[Any, ...], ...]] = {
    "horns": (((0.35, -0.5), (0.45, -0.95), 0.16),),
    "antlers": (((0.3, -0.5), (0.8, -0.9), 0.16), ((0.55, -0.7), (0.45, -1.0), 0.14)),
    "feelers": (((0.25, -0.5), (0.6, -1.05), 0.1),),
    "gills": tuple(((0.6, y), (1.0, y - 0.15), 0.16) for y in (-0.45, -0.1, 0.25)),
}


def _beak(pen: Pen, _: Tone) -> None:
    pen.polygon([(-0.28, 0.08), (0.28, 0.08), (0, 0.55)], BEAK)


def _snout(pen: Pen, ink: Tone) -> None:
    pen.ellipse(0, 0.38, 0.42, 0.3, ink.light)
    pen.ellipse(0, 0.22, 0.16, 0.1, INK)


def _trunk(pen: Pen, ink: Tone) -> None:
    pen.line([(0, 0.15), (0, 0.75), (0.2, 1.0)], ink.dark, 0.3)


def _nose(pen: Pen, ink: Tone) -> None:
    pen.ellipse(0, 0.3, 0.34, 0.24, ink.dark)
    for x in (-0.12, 0.12):
        pen.circle(x, 0.3, 0.07, INK)


def _whiskers(pen: Pen, ink: Tone) -> None:
    for side in (-1, 1):
        for y in (0.2, 0.42):
            pen.line([(side * 0.25, 0.3), (side * 0.95, y)], ink.line, 0.04)
    pen.polygon([(-0.12, 0.12), (0.12, 0.12), (0, 0.26)], INK)


def _teeth(pen: Pen, _: Tone) -> None:
    for x in (-0.15, 0.03):
        pen.box(x, 0.45, x + 0.13, 0.75, PALE)


def _patches(pen: Pen, _: Tone) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 0.34, -0.1, 0.26, 0.3, INK)


def _cheeks(pen: Pen, _: Tone) -> None:
    for side in (-1, 1):
        pen.circle(side * 0.52, 0.3, 0.17, (214, 32, 38))


def _big_eyes(pen: Pen, _: Tone) -> None:
    for side in (-1, 1):
        pen.circle(side * 0.34, -0.12, 0.34, PALE)


def _horn(pen: Pen, _: Tone) -> None:
    pen.polygon([(-0.16, 0.3), (0.16, 0.3), (0, -0.5)], PALE)


def _tuft(pen: Pen, ink: Tone) -> None:
    for angle in (-30, 0, 30):
        pen.leaf(0, -0.5, 0.45, ink.dark, angle=angle, width=0.6)


def _stripes(pen: Pen, _: Tone) -> None:
    for x in (-0.3, 0, 0.3):
        pen.box(x - 0.06, -0.68, x + 0.06, -0.4, INK)


FEATURES = {
    "beak": _beak, "snout": _snout, "trunk": _trunk, "nose": _nose, "whiskers": _whiskers,
    "teeth": _teeth, "patches": _patches, "cheeks": _cheeks, "big eyes": _big_eyes, "horn": _horn,
    "tuft": _tuft, "stripes": _stripes,
}  # fmt: skip


def draw_face(
    pen: Pen, ink: Tone, *, mood: str = "", eyes_y: float = -0.12, mouth: bool = True
) -> None:
    """Two eyes and a mouth; `mood` is a word of the emojis (`crying`, `lovestruck`…) or empty."""
    for side in (-1, 1):
        _draw_eye(pen.at(side * 0.34, eyes_y, 0.2), mood)
    if mouth or mood:
        _draw_mouth(pen, ink, mood)
    if mood == "crying":
        for side in (-1, 1):
            pen.box(side * 0.34 - 0.09, eyes_y + 0.15, side * 0.34 + 0.09, 0.8, (70, 170, 246))
    if mood in ("evil", "scary"):
        for side in (-1, 1):
            pen.line([(side * 0.62, eyes_y - 0.36), (side * 0.14, eyes_y - 0.14)], INK, 0.1)
    if mood == "confused":
        pen.line([(0.16, eyes_y - 0.42), (0.6, eyes_y - 0.3)], INK, 0.1)
    if mood == "sleepy":
        for x, y, size in ((0.75, -0.7, 0.18), (0.98, -1.0, 0.12)):
            zed = [
                (x - size, y - size),
                (x + size, y - size),
                (x - size, y + size),
                (x + size, y + size),
            ]
            pen.line(zed, (32, 92, 222), 0.07)


def _draw_eye(pen: Pen, mood: str) -> None:
    if mood == "lovestruck":
        red: RGB = (226, 24, 60)
        pen.circle(-0.6, -0.4, 0.68, red)
        pen.circle(0.6, -0.4, 0.68, red)
        pen.polygon([(-1.2, -0.1), (1.2, -0.1), (0, 1.4)], red)
    elif mood in ("laughing", "happy"):
        pen.arc((0, 0.4), (1.0, 1.0), (180, 360), INK, 0.5)
    elif mood == "sleepy":
        pen.line([(-1, 0.1), (1, 0.1)], INK, 0.4)
    else:
        wide = 1.5 if mood in ("scared", "cute") else 1.0
        pen.circle(0, 0, wide, PALE)
        pen.circle(0, 0.1, wide * 0.62, (214, 32, 38) if mood == "evil" else INK)


def _draw_mouth(pen: Pen, ink: Tone, mood: str) -> None:
    if mood in ("crying", "depressed", "scared"):
        pen.arc((0, 0.72), (0.3, 0.24), (180, 360), ink.line, 0.1)
    elif mood in ("laughing", "happy", "lovestruck"):
        pen.polygon([(-0.36, 0.32), (0.36, 0.32), (0.18, 0.66), (-0.18, 0.66)], (120, 20, 30))
    elif mood in ("evil", "scary"):
        pen.box(-0.4, 0.36, 0.4, 0.6, (90, 10, 16))
        for x in (-0.3, 0, 0.3):
            pen.polygon([(x - 0.1, 0.36), (x + 0.1, 0.36), (x, 0.54)], PALE)
    elif mood == "confused":
        pen.line([(-0.3, 0.5), (-0.1, 0.42), (0.1, 0.54), (0.3, 0.44)], ink.line, 0.08)
    elif mood == "sleepy":
        pen.circle(0, 0.5, 0.12, ink.line)
    else:
        pen.arc((0, 0.34), (0.26, 0.2), (20, 160), ink.line, 0.08)
