"""Draw animals from a few traits: a body with a head.

A chimera is one animal's head on another's body.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.demo.replica.palette import RGB
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, Tone, tone
from pipeline.demo.replica.shapes.heads import draw_head
from pipeline.demo.replica.shapes.traits import Animal


def draw_animal(pen: Pen, animal: Animal, *, colour: RGB | None = None) -> None:
    """A whole animal from the side, facing the viewer."""
    draw_chimera(pen, animal, animal, colour=colour)


def draw_chimera(pen: Pen, head: Animal, body: Animal, *, colour: RGB | None = None) -> None:
    """One animal's head on another's body, each in its own colour unless a common one is given."""
    draw_body(pen, body, tone(colour or body.colour))
    draw_head(head_of(pen, body), head, colour=colour)


def head_of(pen: Pen, animal: Animal) -> Pen:
    """The square of an animal's head within the square of the whole animal."""
    x, y = HEAD_PLACES.get(animal.body, (-0.42, -0.38))
    return pen.at(x, y - _NECK if "neck" in animal.extras else y, 0.46)


_NECK = 0.15
HEAD_PLACES: Mapping[str, tuple[float, float]] = {
    "upright": (0, -0.45), "wings": (0, -0.35), "fan": (0, -0.2), "tentacles": (0, -0.3),
    "star": (0, -0.05), "box": (0, -0.45), "snake": (-0.5, -0.45), "bug": (-0.5, -0.15),
    "fish": (-0.45, 0.0), "shell": (-0.6, 0.2), "long": (-0.55, 0.05), "bird": (-0.3, -0.5),
}  # fmt: skip


def draw_body(pen: Pen, animal: Animal, ink: Tone) -> None:
    """An animal without its head."""
    if "tail" in animal.extras:
        pen.line([(0.5, 0.35), (0.85, 0.1), (0.85, -0.35)], ink.dark, 0.16)
    BODIES[animal.body](pen, ink)
    if "neck" in animal.extras:
        x, y = HEAD_PLACES.get(animal.body, (-0.42, -0.38))
        pen.line([(x * 0.6, 0.15), (x, y - _NECK)], ink.main, 0.26)
    if "wings" in animal.extras:
        pen.polygon([(0, 0), (0.95, -0.6), (0.6, 0.3)], ink.dark)
    if "belly" in animal.extras:
        pen.ellipse(0.02, 0.35, 0.28, 0.36, PALE)
    if "stripes" in animal.extras:
        for x in (-0.1, 0.15, 0.4):
            pen.box(x, 0.02, x + 0.09, 0.5, INK)
    if "spots" in animal.extras:
        for x, y in ((-0.1, 0.15), (0.15, 0.35), (0.4, 0.15)):
            pen.circle(x, y, 0.1, ink.dark)


def _four_legs(pen: Pen, ink: Tone) -> None:
    for x in (-0.38, -0.12, 0.28, 0.54):
        pen.box(x - 0.1, 0.3, x + 0.1, 0.95, ink.dark)
    pen.ellipse(0.1, 0.22, 0.68, 0.4, ink.main)


def _long(pen: Pen, ink: Tone) -> None:
    for x in (-0.3, 0.35):
        pen.box(x - 0.1, 0.3, x + 0.1, 0.75, ink.dark)
    pen.polygon([(-0.6, 0.0), (0.3, -0.1), (1.0, 0.3), (0.3, 0.55), (-0.6, 0.5)], ink.main)


def _upright(pen: Pen, ink: Tone) -> None:
    for x in (-0.28, 0.28):
        pen.ellipse(x, 0.92, 0.24, 0.1, ink.dark)
    pen.line([(-0.5, 0.05), (-0.65, 0.45)], ink.dark, 0.2)
    pen.line([(0.5, 0.05), (0.65, 0.45)], ink.dark, 0.2)
    pen.ellipse(0, 0.35, 0.52, 0.6, ink.main)


def _bird(pen: Pen, ink: Tone) -> None:
    for x in (0.0, 0.25):
        pen.line([(x, 0.5), (x, 0.95)], (240, 160, 30), 0.09)
    pen.polygon([(0.3, 0.0), (1.0, -0.05), (0.5, 0.5)], ink.dark)
    pen.ellipse(0.05, 0.15, 0.6, 0.48, ink.main)
    pen.ellipse(0.2, 0.15, 0.34, 0.22, ink.dark)


def _fish(pen: Pen, ink: Tone) -> None:
    pen.polygon([(0.5, 0.1), (1.0, -0.35), (1.0, 0.5)], ink.dark)
    pen.ellipse(-0.05, 0.1, 0.75, 0.5, ink.main)
    pen.polygon([(0, 0.4), (0.4, 0.45), (0.35, 0.85)], ink.dark)


def _snake(pen: Pen, ink: Tone) -> None:
    coil = [
        (-0.5, -0.4),
        (-0.1, -0.1),
        (0.5, -0.2),
        (0.6, 0.2),
        (-0.3, 0.3),
        (-0.5, 0.65),
        (0.8, 0.75),
    ]
    pen.line(coil, ink.main, 0.3)


def _bug(pen: Pen, ink: Tone) -> None:
    for x in (-0.3, 0.0, 0.3, 0.6):
        pen.line([(x, 0), (x - 0.1, 0.75)], ink.dark, 0.08)
        pen.line([(x, 0), (x + 0.1, -0.55)], ink.dark, 0.08)
    pen.ellipse(0.15, 0.05, 0.7, 0.36, ink.main)
    for x in (0.0, 0.3, 0.55):
        pen.line([(x, -0.24), (x, 0.34)], ink.dark, 0.06)


def _shell(pen: Pen, ink: Tone) -> None:
    pen.box(-0.75, 0.45, 0.85, 0.72, ink.light, round_=0.13)
    pen.circle(0.15, 0.05, 0.58, ink.main)
    pen.circle(0.15, 0.05, 0.36, ink.dark)
    pen.circle(0.15, 0.05, 0.17, ink.main)


def _tentacles(pen: Pen, ink: Tone) -> None:
    for x in (-0.5, -0.25, 0.0, 0.25, 0.5):
        pen.line([(x, 0), (x * 1.3, 0.5), (x * 1.15, 0.95)], ink.dark, 0.15)
    pen.ellipse(0, -0.25, 0.68, 0.62, ink.main)


def _wings(pen: Pen, ink: Tone) -> None:
    for side in (-1, 1):
        wing = [(0, 0), (side, -0.5), (side * 0.9, 0.35), (side * 0.55, 0.15), (side * 0.4, 0.5)]
        pen.polygon(wing, ink.dark)
    pen.ellipse(0, 0.3, 0.36, 0.58, ink.main)


def _fan(pen: Pen, ink: Tone) -> None:
    for angle in (-75, -45, -15, 15, 45, 75):
        pen.leaf(0, 0.5, 1.45, ink.dark, angle=angle, width=0.32)
    pen.ellipse(0, 0.4, 0.34, 0.55, ink.main)


def _spikes(pen: Pen, ink: Tone) -> None:
    for angle in range(-60, 121, 30):
        pen.leaf(0.1, 0.4, 0.98, ink.dark, angle=angle, width=0.5)
    pen.ellipse(0.1, 0.4, 0.64, 0.42, ink.main)


def _scales(pen: Pen, ink: Tone) -> None:
    _four_legs(pen, ink)
    for x in (-0.2, 0.05, 0.3, 0.55):
        pen.arc((x, 0.2), (0.16, 0.3), (270, 90), ink.dark, 0.06)


def _star(pen: Pen, ink: Tone) -> None:
    pen.polygon(star_points(pen), ink.main)


def star_points(pen: Pen) -> list[tuple[float, float]]:
    """The outline of a five-pointed star that fills the square."""
    pairs = zip(pen.ring(5, 0.98), pen.ring(5, 0.45, start=36), strict=True)
    return [point for pair in pairs for point in pair]


def _box(pen: Pen, ink: Tone) -> None:
    for x in (-0.3, 0.3):
        pen.box(x - 0.13, 0.5, x + 0.13, 0.98, ink.dark)
        pen.box(x * 2.3 - 0.1, -0.05, x * 2.3 + 0.1, 0.5, ink.dark)
    pen.box(-0.52, -0.1, 0.52, 0.62, ink.main)
    pen.circle(0, 0.25, 0.16, (252, 216, 38))


BODIES = {
    "four legs": _four_legs, "long": _long, "upright": _upright, "bird": _bird, "fish": _fish,
    "snake": _snake, "bug": _bug, "shell": _shell, "tentacles": _tentacles, "wings": _wings,
    "fan": _fan, "spikes": _spikes, "scales": _scales, "star": _star, "box": _box,
}  # fmt: skip
