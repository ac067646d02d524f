"""Draw solids: two blocks, stacks of cubes, collections, polygonal clocks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pipeline.demo.replica.palette import PALETTE, RGB
from pipeline.demo.replica.shapes.canvas import INK, Pen, tone
from pipeline.demo.replica.shapes.sheet import Sheet
from pipeline.demo.replica.shapes.subjects import find_subject, seeded_hue
from pipeline.demo.replica.shapes.things import clock_hands, cuboid, table

COUNTS: Mapping[str, int] = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
}  # fmt: skip
_SCALES = {"small": 0.25, "large": 0.45}


def draw_blocks(sheet: Sheet, words: re.Match[str]) -> None:
    """Two blocks with sizes and colours, the first in a position relative to the second."""
    first, second = _SCALES[words["size1"]], _SCALES[words["size2"]]
    colours = PALETTE[words["color1"]], PALETTE[words["color2"]]
    sheet.ground_for(*colours)
    sheet.page.box(-1, 0.12, 1, 1, sheet.tint((206, 207, 210)))
    places = _places(words["position"], first, second)
    figures = [(places[0], first, colours[0]), (places[1], second, colours[1])]
    behind = words["position"] in ("standing in front of", "sitting on")
    for (x, y), scale, colour in reversed(figures) if behind else figures:
        cuboid(sheet.pen.at(x, y, scale), tone(colour))


def _places(position: str, first: float, second: float) -> tuple[tuple[float, float], ...]:
    """Centres of both blocks; they stand at y = 0.75, or at 0.5 if behind."""
    floor = 0.75
    on_floor_1, on_floor_2 = floor - first * 0.8, floor - second * 0.8
    apart = (first + second) / 2 + 0.22
    if position == "sitting on":
        return (0.0, on_floor_2 - (second * 0.7 + first * 0.8)), (0.0, on_floor_2)
    if position == "sitting below":
        return (0.0, on_floor_1), (0.0, on_floor_1 - (first * 0.7 + second * 0.8))
    if position == "standing in front of":
        return (-0.12, floor - first * 0.8 + 0.12), (0.12, 0.42 - second * 0.8)
    if position == "standing behind":
        return (0.16, 0.32 - first * 0.8), (-0.16, floor - second * 0.8 + 0.1)
    side = -1 if position == "standing left of" else 1
    return (side * apart, on_floor_1), (-side * apart, on_floor_2)


def draw_stack(sheet: Sheet, words: re.Match[str]) -> None:
    """Three stacked cubes with their colours."""
    colours = [PALETTE[words[name]] for name in ("bottom", "middle", "top")]
    sheet.ground_for(*colours)
    for index, colour in enumerate(colours):
        cuboid(sheet.pen.at(0, 0.62 - 0.47 * index, 0.36), tone(colour))


def draw_collection(sheet: Sheet, words: re.Match[str]) -> None:
    """Several of one object on a table: as many as the caption says, else three to six."""
    sheet.fill((238, 238, 240))
    table(sheet.pen.at(0, 0.72, 0.95), tone((150, 110, 74)))
    subject = find_subject(words["object"])
    count = COUNTS.get(words["count"] or "", 3 + int(sheet.chance(3) * 3.99))
    width = 1.7 / count
    for index in range(count):
        lift = 0.06 * (sheet.chance(4 + index) - 0.5)
        subject.draw(
            sheet.pen.at(-0.85 + width * (index + 0.5), 0.28 + lift, min(0.32, width * 0.46))
        )


CORNERS: Mapping[str, int] = {
    "triangular": 3, "square": 4, "pentagonal": 5, "hexagonal": 6, "heptagonal": 7, "octagonal": 8,
}  # fmt: skip


def draw_polygon_thing(sheet: Sheet, words: re.Match[str]) -> None:
    """An object in the shape of a polygon: a clock has hands; other objects are drawn on it."""
    colour = PALETTE[words["color"]]
    sheet.ground_for(colour)
    corners = CORNERS.get(words["polygon"], 5)
    pen = sheet.pen.at(0, 0, 0.82)
    outline = pen.ring(corners, 1.0, start=45 if corners == 4 else 0)
    pen.polygon(outline, colour)
    if words["object"] == "clock":
        clock_hands(pen, tone(colour))
    else:
        find_subject(words["object"]).draw(pen.at(0, 0.1, 0.5), tone(colour).dark)


def draw_matrix(sheet: Sheet, _: re.Match[str]) -> None:
    """A matrix of nine cells with one to three shapes each; the last one is the answer."""
    sheet.fill((246, 246, 246))
    for row in range(3):
        for column in range(3):
            _draw_cell(
                sheet.page.at(-0.62 + column * 0.62, -0.62 + row * 0.62, 0.28), sheet, row, column
            )


def _draw_cell(pen: Pen, sheet: Sheet, row: int, column: int) -> None:
    pen.box(-1, -1, 1, 1, INK)
    pen.box(-0.92, -0.92, 0.92, 0.92, (246, 246, 246))
    corners = 3 + int(sheet.chance(row) * 4)
    colour: RGB = seeded_hue(f"matrix {int(sheet.chance(8 + row) * 12)}")
    for index in range(column + 1):
        small = pen.at((index - column / 2) * 0.5, 0, 0.24)
        small.polygon(small.ring(corners, 1.0), colour)
