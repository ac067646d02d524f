"""Draw places: landscapes with an animal, rooms, cities, countries."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from PIL import ImageOps

from pipeline.demo.replica.palette import PALETTE, RGB
from pipeline.demo.replica.shapes import things
from pipeline.demo.replica.shapes.animals import draw_animal
from pipeline.demo.replica.shapes.canvas import INK, PALE, Pen, Tone, mix, tone
from pipeline.demo.replica.shapes.produce import pot_plant, tree
from pipeline.demo.replica.shapes.sheet import Sheet
from pipeline.demo.replica.shapes.subjects import digest_of, find_subject
from pipeline.demo.replica.shapes.traits import ANIMALS

# (sky, sun or moon or None, darkness of the land 0..1)
TIMES: Mapping[str, tuple[RGB, RGB | None, float]] = {
    "at dawn": ((250, 206, 180), (255, 236, 170), 0.25), "at dusk": ((150, 110, 150), None, 0.4),
    "at night": ((22, 28, 60), (240, 240, 214), 0.6), "at sunrise": ((255, 190, 120), (255, 240, 120), 0.15),
    "at sunset": ((246, 120, 70), (255, 214, 90), 0.3), "at twilight": ((80, 84, 146), None, 0.5),
    "in the morning": ((190, 226, 250), (255, 240, 150), 0.0),
    "in the afternoon": ((120, 190, 246), (255, 226, 60), 0.0),
    "during summer": ((96, 180, 250), (255, 220, 40), 0.0), "during fall": ((214, 216, 214), None, 0.1),
    "during winter": ((222, 230, 240), None, 0.0), "during spring": ((170, 220, 250), None, 0.0),
}  # fmt: skip
LAND: Mapping[str, RGB] = {
    "fall": (200, 120, 50),
    "winter": (244, 246, 250),
    "spring": (130, 206, 96),
}
GREEN: RGB = (92, 160, 70)


def draw_landscape(sheet: Sheet, words: re.Match[str]) -> None:
    """An animal in a place at a time, in a style."""
    _draw_place(sheet, words["place"], words["time"])
    draw_animal(sheet.pen.at(0, 0.3, 0.56), ANIMALS.get(words["animal"], ANIMALS["capybara"]))
    apply_style(sheet, words["style"])


def _draw_place(sheet: Sheet, place: str, time: str) -> None:
    sky, sun, dark = TIMES.get(time, TIMES["in the afternoon"])
    land = mix(LAND.get(time.split()[-1], GREEN), (10, 14, 40), dark)
    sheet.fill(sky)
    if sun:
        sheet.page.circle(0.62 - sheet.chance(2) * 0.2, -0.62, 0.2, sun)
    if "mountain" in place:
        rock = mix((132, 128, 132), (10, 14, 40), dark)
        sheet.page.polygon([(-1.2, 1), (-0.35, -0.6), (0.4, 1)], rock)
        sheet.page.polygon([(-0.2, 1), (0.6, -0.35), (1.4, 1)], tone(rock).dark)
    if "forest" in place:
        for x in (-0.85, -0.45, 0.4, 0.8):
            tree(sheet.page.at(x, 0.0, 0.42), tone(mix((40, 110, 50), (10, 14, 40), dark)))
    sheet.page.box(-1, 0.35, 1, 1, sheet.tint(land))


def draw_field(sheet: Sheet, words: re.Match[str]) -> None:
    """An animal in a field, from the view that the caption names."""
    animal = ANIMALS.get(words["animal"], ANIMALS["capybara"])
    view = words["view"] or ""
    _draw_place(sheet, "field", "in the afternoon")
    if "aerial" in view:
        sheet.fill(GREEN)
        sheet.pen.ellipse(0, 0.1, 0.2, 0.38, animal.colour)
        sheet.pen.circle(0, -0.3, 0.16, tone(animal.colour).dark)
    elif "rear" in view:
        sheet.pen.ellipse(0, 0.3, 0.5, 0.55, animal.colour)
        for x in (-0.3, 0.3):
            sheet.pen.circle(x, -0.3, 0.16, tone(animal.colour).dark)
        sheet.pen.circle(0, 0.45, 0.1, tone(animal.colour).dark)
    else:
        close = "close-up" in view
        draw_animal(
            sheet.pen.at(0.4 if close else 0, 0.55 if close else 0.2, 1.8 if close else 0.62),
            animal,
        )
    if "fisheye" in view:
        sheet.page.arc((0, 0), (1.45, 1.45), (0, 360), INK, 0.55)


def draw_voxels(sheet: Sheet, words: re.Match[str]) -> None:
    """The same scene, made of cubes."""
    draw_field(sheet, words)
    small = sheet.image.resize((20, 20), 0)
    sheet.image.paste(small.resize(sheet.image.size, 0))


def apply_style(sheet: Sheet, style: str) -> None:
    """Apply the look of a medium to a finished image."""
    image = sheet.image
    if any(word in style for word in ("charcoal", "pencil", "black and white", "engraving")):
        image.paste(ImageOps.grayscale(image).convert("RGB"))
    elif "sepia" in style:
        image.paste(ImageOps.colorize(ImageOps.grayscale(image), (50, 26, 8), (250, 234, 200)))
    elif "pixel" in style:
        image.paste(image.resize((32, 32), 0).resize(image.size, 0))
    elif "chalk" in style:
        image.paste(ImageOps.posterize(ImageOps.invert(image), 2))
    elif "pop art" in style:
        image.paste(ImageOps.autocontrast(ImageOps.solarize(image, 200)))
    elif "cubist" in style:
        _shift_tiles(sheet)
    elif "stamp" in style or "poster" in style:
        _frame(sheet.page, perforated="stamp" in style)


def _shift_tiles(sheet: Sheet) -> None:
    size, tile = sheet.image.width, sheet.image.width // 4
    source = sheet.image.copy()
    for index in range(16):
        x, y = index % 4 * tile, index // 4 * tile
        shift = (index * 7 % 5 - 2) * size // 64
        sheet.image.paste(source.crop((x + shift, y, x + shift + tile, y + tile)), (x, y))


def _frame(pen: Pen, *, perforated: bool) -> None:
    for x0, y0, x1, y1 in (
        (-1, -1, 1, -0.86),
        (-1, 0.86, 1, 1),
        (-1, -1, -0.86, 1),
        (0.86, -1, 1, 1),
    ):
        pen.box(x0, y0, x1, y1, PALE)
    for step in range(-8, 9) if perforated else ():
        for x, y in ((step * 0.125, 1), (step * 0.125, -1), (1, step * 0.125), (-1, step * 0.125)):
            pen.circle(x, y, 0.05, (120, 124, 132))


def draw_living_room(sheet: Sheet, words: re.Match[str]) -> None:
    """Two armchairs of one colour, and a painting with what it hangs above or behind."""
    colour = PALETTE[words["color"]]
    wall: RGB = (150, 170, 184)
    sheet.fill(wall)
    sheet.page.box(-1, 0.5, 1, 1, (150, 110, 74))
    pen = sheet.pen
    pen.box(-0.42, -0.95, 0.42, -0.2, (196, 148, 28))
    pen.box(-0.35, -0.88, 0.35, -0.27, PALE)
    find_subject(words["subject"].removeprefix("a ").removeprefix("the ")).draw(
        pen.at(0, -0.57, 0.28)
    )
    _draw_furniture(pen, words["where"])
    for x in (-0.62, 0.62):
        things.armchair(pen.at(x, 0.5, 0.36, mirror=x > 0), tone(colour))


def _draw_furniture(pen: Pen, where: str) -> None:
    if "fireplace" in where:
        stone = (206, 200, 190) if "traditional" in where else (60, 62, 70)
        pen.box(-0.34, -0.05, 0.34, 0.6, stone)
        pen.box(-0.2, 0.15, 0.2, 0.6, INK)
        pen.polygon([(-0.14, 0.6), (0, 0.2), (0.14, 0.6)], (246, 132, 24))
    elif "table" in where:
        things.table(pen.at(0, 0.45, 0.3), tone((112, 66, 34)))
    elif "ceiling" in where:
        pen.line([(0.3, -1.1), (0.3, -0.75)], INK, 0.04)
        pen.ellipse(0.3, -0.72, 0.4 if "fan" in where else 0.18, 0.06, INK)
    else:
        pot_plant(pen.at(0.28, 0.05, 0.36), tone((34, 150, 62)))


def draw_bedroom(sheet: Sheet, words: re.Match[str]) -> None:
    """A coloured bed, a nightstand or a shelf, and an object beside the bed."""
    sheet.fill((206, 196, 184))
    sheet.page.box(-1, 0.45, 1, 1, (150, 110, 74))
    pen, bed = sheet.pen, words["bed"]
    colour = next(
        (PALETTE[name] for name in ("white", "gray", "pink") if name in bed), (70, 130, 160)
    )
    width = 1.15 if "king" in bed else 0.85
    pen.box(-0.9, -0.2, -0.82, 0.8, INK)
    pen.box(-0.9, 0.2, -0.9 + width, 0.62, colour)
    pen.box(-0.82, 0.05, -0.5, 0.22, PALE)
    right = -0.84 + width
    wood = tone((112, 66, 34))
    top = 0.28 if words["furniture"] == "nightstand" else -0.6
    pen.box(right, top, right + 0.28, 0.7, wood.main)
    for y in (top + 0.1, top + 0.3):
        pen.line([(right + 0.04, y), (right + 0.24, y)], wood.light, 0.03)
    find_subject(words["object"]).draw(pen.at(0.72, 0.35, 0.3))


def draw_neighborhood(sheet: Sheet, words: re.Match[str]) -> None:
    """A row of houses seeded by its name, seen from a street, from water or from above."""
    time, view = words["time"], words["view"]
    sky, sun, dark = TIMES.get(time, TIMES["in the afternoon"])
    sheet.fill(sky)
    if sun:
        sheet.page.circle(0.6, -0.65, 0.15, sun)
    base = 0.2 if "water" in view else 0.5
    _draw_houses(sheet.page.at(0, 0, 1), words["name"], base=base, dark=dark)
    if "tall" in view:
        _draw_houses(sheet.page.at(0.1, 0.45, 1.1), words["name"] + "2", base=0.6, dark=dark)
    ground = (60, 120, 180) if "water" in view else (110, 112, 118)
    if "tall" not in view:
        sheet.page.box(-1, base, 1, 1, mix(sheet.tint(ground), (10, 14, 40), dark))


def _draw_houses(pen: Pen, name: str, *, base: float, dark: float) -> None:
    seed = digest_of("houses", name)
    for index in range(6):
        left, height = -1 + index / 3, 0.35 + seed[index] / 400
        hue = (150 + seed[index + 6] % 90, 130 + seed[index + 12] % 90, 130 + seed[index + 18] % 90)
        pen.box(left, base - height, left + 0.32, base, mix(hue, (10, 14, 40), dark))
        for row in range(3):
            for x in (left + 0.06, left + 0.2):
                y = base - height + 0.08 + row * 0.14
                pen.box(x, y, x + 0.07, y + 0.08, (252, 216, 38) if dark > 0.5 else (190, 214, 232))


LANDMARKS: Mapping[str, tuple[Callable[[Pen, Tone], None], RGB]] = {
    "golden gate bridge": (things.bridge, (206, 66, 40)),
    "transamerica pyramid": (things.tower, (230, 228, 220)), "city hall": (things.dome, (200, 190, 170)),
    "palace of fine arts": (things.dome, (206, 150, 100)), "ferry building": (things.tower, (190, 186, 180)),
    "grace cathedral": (things.columns, (186, 184, 190)), "golden gate park": (tree, (40, 130, 60)),
    "pink ladies": (things.house, (255, 158, 196)), "sfmoma": (things.cuboid, (230, 230, 234)),
    "mission dolores": (things.house, (246, 240, 226)), "castro theatre": (things.columns, (224, 110, 60)),
    "lombard street": (things.house, (190, 90, 70)),
}  # fmt: skip


def draw_landmark(sheet: Sheet, words: re.Match[str]) -> None:
    """A building with a distinct shape under the sky of the bay."""
    shape, colour = LANDMARKS.get(words["name"], (things.dome, (190, 180, 170)))
    sheet.fill((150, 200, 240))
    sheet.page.box(-1, 0.62, 1, 1, (60, 120, 180) if shape is things.bridge else (110, 150, 90))
    shape(sheet.pen.at(0, 0.05, 0.8), tone(colour))
