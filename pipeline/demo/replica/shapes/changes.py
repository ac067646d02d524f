"""Draw an object twice: unchanged on top, changed as the caption says on the bottom."""

from __future__ import annotations

import re

from PIL import Image

from pipeline.demo.replica.palette import PALETTE, RGB, colours_named
from pipeline.demo.replica.shapes.animals import star_points
from pipeline.demo.replica.shapes.canvas import PALE, Pen, mix, tone
from pipeline.demo.replica.shapes.heads import draw_face
from pipeline.demo.replica.shapes.lettering import write_word
from pipeline.demo.replica.shapes.media import LIGHT, MEDIA
from pipeline.demo.replica.shapes.people import ATTIRE, wear
from pipeline.demo.replica.shapes.sheet import Sheet
from pipeline.demo.replica.shapes.subjects import find_subject
from pipeline.demo.replica.shapes.traits import Animal

_GRAY: RGB = (150, 152, 156)
_CARRIERS = {"stamp": "postage stamp", "card": "business card", "phone": "cell phone case"}
_EMBLEM = re.compile(r"with a (?:blue )?(heart|brain|cherry blossom|strawberry)")


def draw_same_again(sheet: Sheet, words: re.Match[str]) -> None:
    """An object on top, always in the same place, and its changed copy on the bottom."""
    sheet.fill((240, 240, 244))
    subject = find_subject(words["subject"])
    change = words["change"]
    subject.draw(sheet.page.at(0, -0.5, 0.45))
    colours = colours_named(change)
    if "photo" in change and colours:
        sheet.page.box(-1, 0, 1, 1, mix(PALETTE[colours[0]], (255, 255, 255), 0.35))
    below = _place_below(sheet, change)
    recolour = PALETTE[colours[0]] if colours and "strawberry" not in change else None
    subject.draw(below, _GRAY if "gray" in change or "sketch" in change else recolour)
    _dress(below, subject.animal, change)
    _decorate(below, change)
    if "upside-down" in change:
        _turn_bottom(sheet.image)


def _place_below(sheet: Sheet, change: str) -> Pen:
    for word, medium in _CARRIERS.items():
        if word in change:
            MEDIA[medium](sheet.pen.at(0, 0.5, 0.48), LIGHT)
            return sheet.pen.at(0, 0.5, 0.26)
    if "close-up" in change:
        return sheet.pen.at(0.15, 0.95, 0.9)
    return sheet.pen.at(0, 0.5, 0.2 if "tiny" in change else 0.45)


def _turn_bottom(image: Image.Image) -> None:
    middle = image.height // 2
    bottom = image.crop((0, middle, image.width, 2 * middle))
    image.paste(bottom.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (0, middle))


def _dress(pen: Pen, animal: Animal | None, change: str) -> None:
    for attire in ATTIRE:
        if re.search(rf"\b{attire}\b", change):
            wear(pen, animal, attire)


def _decorate(pen: Pen, change: str) -> None:
    quoted, emblem = re.search(r"'(\w+)'", change), _EMBLEM.search(change)
    if quoted:
        write_word(pen.at(0, 0.2, 1), quoted[1], PALE, width=0.9)
    elif emblem:
        find_subject(emblem[1]).draw(
            pen.at(0, 0.2, 0.36), PALETTE["blue"] if "blue" in change else None
        )
    elif "smiley" in change:
        pen.circle(0, 0.2, 0.36, PALETTE["yellow"])
        draw_face(pen.at(0, 0.2, 0.36), tone(PALETTE["yellow"]), mood="happy")
    elif "star" in change:
        pen.at(0, 0.2, 0.4).polygon(star_points(pen), PALETTE["yellow"])
    elif "broken" in change:
        pen.line([(-0.2, -0.45), (0.1, 0.0), (-0.15, 0.3), (0.15, 0.85)], PALE, 0.12)
    else:
        _pattern(pen, change)


def _pattern(pen: Pen, change: str) -> None:
    if "stripes" in change:
        for x in (-0.3, 0.0, 0.3):
            pen.box(x - 0.06, -0.3, x + 0.06, 0.75, PALE)
        return
    places = [(x, y) for x in (-0.35, -0.05, 0.25) for y in (-0.1, 0.2, 0.5)]
    for index, (x, y) in enumerate(places):
        if "dots" in change:
            pen.circle(x, y, 0.09, PALE)
        elif "checkers" in change and index % 2 == 0:
            pen.box(x - 0.15, y - 0.15, x + 0.15, y + 0.15, PALE)
