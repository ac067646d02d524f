"""Draw countries: their flags, and other subjects in the flag's colours."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.demo.replica.palette import PALETTE, RGB
from pipeline.demo.replica.shapes import things
from pipeline.demo.replica.shapes.animals import draw_animal
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, tone
from pipeline.demo.replica.shapes.produce import bowl, bunch_of_leaves, flower
from pipeline.demo.replica.shapes.scenery import GREEN
from pipeline.demo.replica.shapes.sheet import Sheet
from pipeline.demo.replica.shapes.subjects import digest_of
from pipeline.demo.replica.shapes.traits import ANIMALS

# Flags with plain bands or a disc: "|" vertical, "-" horizontal, "o" a disc on the first colour.
FLAGS: Mapping[str, str] = {
    "armenia": "- red blue orange", "austria": "- red white red", "bangladesh": "o green red",
    "belgium": "| black yellow red", "bolivia": "- red yellow green", "bulgaria": "- white green red",
    "chad": "| navy yellow red", "colombia": "- yellow blue red", "estonia": "- blue black white",
    "france": "| navy white red", "gabon": "- green yellow blue", "germany": "- black red gold",
    "guinea": "| red yellow green", "hungary": "- red white green", "ireland": "| green white orange",
    "italy": "| green white red", "ivory coast": "| orange white green", "japan": "o white red",
    "lithuania": "- yellow green red", "luxembourg": "- red white blue", "mali": "| green yellow red",
    "monaco": "- red white", "netherlands": "- red white navy", "nigeria": "| green white green",
    "palau": "o blue yellow", "peru": "| red white red", "poland": "- white red",
    "romania": "| navy yellow red", "russia": "- white blue red", "sierra leone": "- green white blue",
    "ukraine": "- blue yellow", "yemen": "- red white black",
}  # fmt: skip
_BOLD = ("red", "green", "blue", "yellow", "orange", "black", "white", "navy")


def flag_colours(country: str) -> tuple[str, tuple[RGB, ...]]:
    """The layout and colours of a country's flag; invented if the table lacks it."""
    row = FLAGS.get(country)
    if row is None:
        seed = digest_of("flag", country)
        first = seed[1] % 8
        names = [
            _BOLD[first],
            _BOLD[(first + 1 + seed[2] % 3) % 8],
            _BOLD[(first + 4 + seed[3] % 3) % 8],
        ]
        row = " ".join(["|-o"[seed[0] % 3], *names])
    layout, *colours = row.split()
    return layout, tuple(PALETTE[name] for name in colours)


def draw_flag(pen: Pen, country: str) -> None:
    """A flag as wide as its square and two thirds as high."""
    layout, colours = flag_colours(country)
    step = 2 / len(colours)
    for index, colour in enumerate(colours):
        if layout == "|":
            pen.box(-1 + index * step, -0.66, -1 + (index + 1) * step, 0.66, colour)
        elif layout == "-":
            pen.box(-1, -0.66 + index * step * 0.66, 1, -0.66 + (index + 1) * step * 0.66, colour)
    if layout == "o":
        pen.box(-1, -0.66, 1, 0.66, colours[0])
        pen.circle(0, 0, 0.4, colours[1])


def draw_country(sheet: Sheet, words: re.Match[str]) -> None:
    """The requested subject of a country, in the colours of its flag."""
    what, country = words["what"], words["country"]
    colours = flag_colours(country)[1]
    if "flag" in what:
        sheet.fill((150, 200, 240))
        sheet.page.box(-0.98, -1, -0.9, 1, (112, 66, 34))
        draw_flag(sheet.pen.at(0, -0.1, 0.82), country)
    elif "animal" in what or "wildlife" in what:
        _draw_wildlife(sheet, country, many="wildlife" in what)
    elif "flowers" in what or "plants" in what:
        _draw_plants(sheet, colours, flowers="flowers" in what)
    elif "food" in what or "cafe" in what:
        _draw_table(sheet, colours, country)
    else:
        _draw_building(sheet, colours, what)


def _draw_wildlife(sheet: Sheet, country: str, *, many: bool) -> None:
    sheet.fill((170, 214, 246))
    sheet.page.box(-1, 0.4, 1, 1, GREEN)
    names = sorted(ANIMALS)
    seed = digest_of("animal", country)
    if not many:
        draw_animal(sheet.pen.at(0, 0.1, 0.75), ANIMALS[names[seed[0] % len(names)]])
        return
    for index, x in enumerate((-0.55, 0.5)):
        draw_animal(sheet.pen.at(x, 0.2, 0.42), ANIMALS[names[seed[index] % len(names)]])


def _draw_plants(sheet: Sheet, colours: tuple[RGB, ...], *, flowers: bool) -> None:
    sheet.fill((206, 230, 206))
    for index, x in enumerate((-0.6, 0.0, 0.6)):
        if flowers:
            flower(sheet.pen.at(x, 0.15 * (index % 2), 0.5), tone(colours[index % len(colours)]))
        else:
            bunch_of_leaves(sheet.pen.at(x, 0.15 * (index % 2), 0.55), tone(GREEN))


def _draw_table(sheet: Sheet, colours: tuple[RGB, ...], country: str) -> None:
    sheet.fill((226, 210, 190))
    things.table(sheet.pen.at(0, 0.6, 0.95), tone((150, 110, 74)))
    if sheet.word_chance(country) < 0.5:
        sheet.pen.ellipse(0, 0.35, 0.6, 0.14, PALE)
        for index, x in enumerate((-0.3, 0.0, 0.3)):
            sheet.pen.circle(x, 0.2, 0.18, colours[index % len(colours)])
    else:
        bowl(sheet.pen.at(0, 0.05, 0.5), tone(colours[0]))


def _draw_building(sheet: Sheet, colours: tuple[RGB, ...], what: str) -> None:
    sheet.fill((170, 214, 246))
    sheet.page.box(-1, 0.6, 1, 1, (150, 150, 156))
    if "museum" in what:
        things.columns(sheet.pen.at(0, 0, 0.8), tone((206, 196, 180)))
    elif "stadium" in what:
        sheet.pen.ellipse(0, 0.3, 0.9, 0.5, (150, 150, 160))
        sheet.pen.ellipse(0, 0.3, 0.6, 0.28, GREEN)
        sheet.pen.line([(0, 0.03), (0, 0.57)], PALE, 0.03)
    else:
        for index, x in enumerate((-0.65, 0.0, 0.65)):
            things.house(sheet.pen.at(x, 0.2, 0.4), tone(colours[index % len(colours)]))
    sheet.pen.line([(0.75, -0.2), (0.75, -0.95)], INK, 0.03)
    for index, colour in enumerate(colours):
        sheet.pen.box(0.4, -0.95 + index * 0.1, 0.74, -0.85 + index * 0.1, colour)
