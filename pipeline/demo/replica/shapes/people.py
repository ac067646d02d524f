"""Draw figures with clothes: the baby animals of the emojis, mannequins, dressed-up vegetables."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pipeline.demo.replica.palette import PALETTE, RGB
from pipeline.demo.replica.shapes.animals import head_of
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, tone
from pipeline.demo.replica.shapes.heads import draw_head
from pipeline.demo.replica.shapes.traits import Animal

SKIN: RGB = (188, 190, 196)


def dressed_baby(
    pen: Pen, animal: Animal, *, hat: RGB, gloves: RGB, shirt: RGB, pants: RGB
) -> None:
    """A standing baby animal with separate hat, gloves, shirt and pants."""
    ink = tone(animal.colour)
    for side in (-1, 1):
        pen.ellipse(side * 0.24, 0.95, 0.2, 0.07, (246, 168, 36))
        pen.box(side * 0.24 - 0.2, 0.5, side * 0.24 + 0.2, 0.92, pants)
        pen.line([(side * 0.46, 0.12), (side * 0.74, 0.34)], shirt, 0.24)
        pen.circle(side * 0.8, 0.4, 0.19, gloves)
    pen.box(-0.44, 0.42, 0.44, 0.66, pants)
    pen.box(-0.48, 0.0, 0.48, 0.48, shirt, round_=0.1)
    draw_head(pen.at(0, -0.3, 0.5), animal, colour=ink.main)
    pen.polygon([(-0.42, -0.52), (-0.3, -0.9), (0.3, -0.9), (0.42, -0.52)], hat)
    pen.box(-0.52, -0.6, 0.52, -0.46, hat)
    pen.circle(0, -0.92, 0.1, hat)


def mannequin(pen: Pen, *, top: tuple[str, RGB, RGB | None], bottom: tuple[str, RGB]) -> None:
    """A mannequin from head to knee: `top` is (garment, colour, colour of its pattern or None)."""
    garment, colour, second = top
    pen.ellipse(0, -0.82, 0.16, 0.2, SKIN)
    pen.box(-0.07, -0.7, 0.07, -0.45, SKIN)
    _draw_bottom(pen, bottom[0], bottom[1])
    short = garment in ("t-shirt", "polo shirt")
    for side in (-1, 1):
        pen.line([(side * 0.36, -0.38), (side * 0.56, 0.3)], SKIN, 0.15)
        end = (side * 0.43, -0.12) if short else (side * 0.55, 0.24)
        pen.line([(side * 0.34, -0.38), end], colour, 0.22)
    hem = 0.02 if "cropped" in garment else 0.22
    pen.polygon([(-0.42, -0.5), (0.42, -0.5), (0.34, hem), (-0.34, hem)], colour)
    _draw_top_details(pen, garment, colour, second)


def _draw_top_details(pen: Pen, garment: str, colour: RGB, second: RGB | None) -> None:
    seam = tone(colour).line
    if second is not None:
        _draw_pattern(pen, garment, second)
    if "turtleneck" in garment:
        pen.box(-0.13, -0.66, 0.13, -0.46, colour)
    elif "button-down" in garment or "polo" in garment or "flannel" in garment:
        pen.polygon([(-0.16, -0.52), (0.16, -0.52), (0, -0.34)], SKIN)
        pen.line([(0, -0.34), (0, 0.2)], seam, 0.025)
    elif "jacket" in garment or "cardigan" in garment:
        pen.polygon([(-0.14, -0.52), (0.14, -0.52), (0, 0.0)], PALE)
        pen.line([(0, 0.0), (0, 0.2)], seam, 0.05)
        pen.line([(-0.33, 0.2), (0.33, 0.2)], seam, 0.05)
    else:
        pen.ellipse(0, -0.5, 0.14, 0.07, SKIN)


def _draw_pattern(pen: Pen, garment: str, second: RGB) -> None:
    dotted, across = "dotted" in garment, "checkered" in garment or "flannel" in garment
    for x in (-0.26, -0.09, 0.09, 0.26):
        for y in (-0.36, -0.16, 0.04):
            if dotted:
                pen.circle(x, y, 0.04, second)
            else:
                pen.box(x - 0.025, y - 0.1, x + 0.025, y + 0.1, second)
    for y in (-0.3, -0.1, 0.1) if across else ():
        pen.box(-0.35, y, 0.35, y + 0.04, second)


def _draw_bottom(pen: Pen, garment: str, colour: RGB) -> None:
    if "skirt" in garment:
        length = 0.55 if "mini" in garment else 0.82
        width = 0.62 if "bubble" in garment else 0.52
        for side in (-1, 1):
            pen.box(side * 0.16 - 0.09, 0.4, side * 0.16 + 0.09, 1.2, SKIN)
        pen.polygon([(-0.32, 0.14), (0.32, 0.14), (width, length), (-width, length)], colour)
        if "pleated" in garment or "wrap" in garment:
            for x in (-0.2, 0.0, 0.2):
                pen.line([(x * 0.7, 0.2), (x * 1.6, length)], tone(colour).dark, 0.03)
        return
    flare = 0.46 if "palazzo" in garment else 0.36 if "sweat" in garment else 0.33
    for side in (-1, 1):
        pen.polygon(
            [(0, 0.14), (side * 0.34, 0.14), (side * flare, 1.25), (side * 0.05, 1.25)], colour
        )
    pen.line([(0, 0.45), (0, 1.25)], tone(colour).dark, 0.04)


Attire = Callable[[Pen], None]


def _beanie(pen: Pen) -> None:
    pen.polygon([(-0.5, -0.5), (-0.35, -0.95), (0.35, -0.95), (0.5, -0.5)], PALETTE["red"])
    pen.box(-0.55, -0.6, 0.55, -0.44, PALE)


def _cape(pen: Pen) -> None:
    outline = [(-0.4, 0.0), (0.4, 0.0), (0.95, 0.9), (0.5, 0.75), (-0.5, 0.75), (-0.95, 0.9)]
    pen.polygon(outline, PALETTE["red"])


def _sweater(pen: Pen) -> None:
    pen.box(-0.55, 0.25, 0.55, 0.7, PALETTE["red"])
    for x in (-0.4, -0.13, 0.13, 0.4):
        pen.polygon([(x - 0.1, 0.58), (x + 0.1, 0.58), (x, 0.34)], PALETTE["green"])


def _helmet(pen: Pen) -> None:
    pen.arc((0, -0.45), (0.58, 0.55), (180, 360), PALETTE["yellow"], 0.3)


def _jacket(pen: Pen) -> None:
    pen.box(-0.58, 0.22, 0.58, 0.74, INK)
    pen.polygon([(-0.18, 0.22), (0.18, 0.22), (0, 0.6)], PALE)


def _suit(pen: Pen) -> None:
    pen.box(-0.58, 0.22, 0.58, 0.78, PALETTE["navy"])
    pen.polygon([(-0.2, 0.22), (0.2, 0.22), (0, 0.68)], PALE)
    pen.polygon([(-0.06, 0.26), (0.06, 0.26), (0, 0.62)], PALETTE["red"])


def _tutu(pen: Pen) -> None:
    pen.polygon([(-0.4, 0.3), (0.4, 0.3), (0.95, 0.7), (-0.95, 0.7)], PALETTE["pink"])
    for x in (-0.7, -0.35, 0, 0.35, 0.7):
        pen.circle(x, 0.7, 0.17, PALETTE["pink"])


def _wizard_hat(pen: Pen) -> None:
    pen.polygon([(-0.5, -0.5), (0.1, -1.25), (0.5, -0.5)], PALETTE["purple"])
    pen.ellipse(0, -0.5, 0.72, 0.12, PALETTE["purple"])
    pen.circle(0.05, -0.75, 0.09, PALETTE["yellow"])


def _pajamas(pen: Pen) -> None:
    pen.box(-0.56, 0.22, 0.56, 0.85, (150, 206, 236))
    for x in (-0.4, -0.13, 0.13, 0.4):
        pen.box(x - 0.04, 0.22, x + 0.04, 0.85, PALE)


def _mustache(pen: Pen) -> None:
    pen.ellipse(-0.17, 0.1, 0.2, 0.09, (60, 36, 24))
    pen.ellipse(0.17, 0.1, 0.2, 0.09, (60, 36, 24))


def _headphones(pen: Pen) -> None:
    pen.arc((0, -0.25), (0.62, 0.66), (180, 360), INK, 0.12)
    for x in (-0.6, 0.6):
        pen.box(x - 0.14, -0.38, x + 0.14, 0.05, INK, round_=0.1)


def _sunglasses(pen: Pen) -> None:
    pen.line([(-0.5, -0.2), (0.5, -0.2)], INK, 0.07)
    for x in (-0.25, 0.25):
        pen.circle(x, -0.16, 0.19, INK)


def _bow_tie(pen: Pen) -> None:
    pen.polygon([(-0.4, 0.3), (-0.4, 0.64), (0.4, 0.3), (0.4, 0.64)], PALETTE["red"])


# Drawn over a figure whose head is centred a little above the middle of the square.
ATTIRE: Mapping[str, Attire] = {
    "beanie": _beanie, "hat": _beanie, "cape": _cape, "christmas sweater": _sweater,
    "helmet": _helmet, "leather jacket": _jacket, "suit": _suit, "tutu": _tutu,
    "wizard hat": _wizard_hat, "pajamas": _pajamas, "mustache": _mustache,
    "headphones": _headphones, "sunglasses": _sunglasses, "bow tie": _bow_tie,
}  # fmt: skip
_ON_THE_HEAD = frozenset(
    {"beanie", "hat", "helmet", "wizard hat", "mustache", "headphones", "sunglasses", "bow tie"}
)


def wear(pen: Pen, animal: Animal | None, attire: str) -> None:
    """Put clothes on a figure; on an animal some of them are drawn on its head."""
    if attire not in ATTIRE:
        return
    on_head = animal is not None and attire in _ON_THE_HEAD
    ATTIRE[attire](head_of(pen, animal).at(0, 0.06, 1.25) if animal and on_head else pen)
