"""Draw a single object or figure: on a medium, made of a material, with a mood, in clothes."""

from __future__ import annotations

import re

from pipeline.demo.replica.palette import PALETTE, RGB, colours_named
from pipeline.demo.replica.shapes import things
from pipeline.demo.replica.shapes.animals import draw_body, draw_chimera
from pipeline.demo.replica.shapes.canvas import INK, PALE, mix, tone
from pipeline.demo.replica.shapes.heads import draw_face, draw_head
from pipeline.demo.replica.shapes.lettering import write_word
from pipeline.demo.replica.shapes.media import DARK, LIGHT, MEDIA
from pipeline.demo.replica.shapes.people import dressed_baby, mannequin, wear
from pipeline.demo.replica.shapes.sheet import Sheet, pattern_of
from pipeline.demo.replica.shapes.subjects import Subject, digest_of, find_subject, seeded_hue
from pipeline.demo.replica.shapes.traits import ANIMALS, Animal


def draw_medium(sheet: Sheet, words: re.Match[str]) -> None:
    """A gray medium with a large object of one colour in the middle."""
    colour = PALETTE[words["color"]]
    grays = DARK if words["color"] in ("white", "ivory", "beige") else LIGHT
    sheet.fill(grays.ground)
    medium = MEDIA.get(words["medium"], MEDIA["business card"])
    medium(sheet.pen.at(0, 0, 0.86), grays)
    find_subject(words["object"]).draw(sheet.pen.at(0, 0.02, 0.58), colour)


_ALL_FACE = frozenset({"star", "tentacles"})


def draw_emoji(sheet: Sheet, words: re.Match[str]) -> None:
    """A large head or object whose face shows a mood."""
    sheet.fill((240, 240, 244))
    subject = find_subject(words["subject"])
    mood = words["mood"]
    pen = sheet.pen.at(0, 0.06, 0.82)
    if subject.animal is not None and subject.animal.body not in _ALL_FACE:
        draw_head(pen, subject.animal, mood=mood)
        return
    if subject.animal is not None:
        draw_body(pen, subject.animal, tone(subject.colour))
    else:
        subject.draw(pen.at(0, 0, 1.08))
    centre = (0, -0.2, 0.55) if subject.animal is not None else (0, 0.12, 0.62)
    draw_face(pen.at(*centre), tone(subject.colour), mood=mood)


def draw_dressed_baby(sheet: Sheet, words: re.Match[str]) -> None:
    """A baby animal with hat, gloves, shirt and pants in the named colours."""
    clothes = {name: PALETTE[words[name]] for name in ("hat", "gloves", "shirt", "pants")}
    sheet.ground_for(*clothes.values())
    animal = ANIMALS.get(words["animal"], ANIMALS["penguin"])
    dressed_baby(sheet.pen.at(0, 0, 0.95), animal, **clothes)


def draw_mannequin(sheet: Sheet, words: re.Match[str]) -> None:
    """A mannequin with top and bottom in the named colours; the second colour is the top's pattern."""
    colours = PALETTE[words["color1"]], PALETTE[words["color2"]]
    sheet.ground_for(*colours)
    second = PALETTE[words["second"]] if words["second"] else None
    pen = sheet.pen.at(0, 0.02, 0.98)
    mannequin(pen, top=(words["top"], colours[0], second), bottom=(words["bottom"], colours[1]))


def draw_product(sheet: Sheet, words: re.Match[str]) -> None:
    """A product in the colours and texture of an object, with a small drawing of that object on it."""
    sheet.fill((240, 240, 244))
    thing = find_subject(words["thing"])
    _draw_textured(sheet, find_subject(words["product"]), words["thing"], colour=thing.colour)
    thing.draw(sheet.pen.at(0, 0.12, 0.27))


def draw_made_of(sheet: Sheet, words: re.Match[str]) -> None:
    """An animal or a solid in the colour and texture of a material or a concept."""
    sheet.fill((240, 240, 244))
    material = words["material"]
    _draw_textured(
        sheet, find_subject(words["solid"]), material, colour=find_subject(material).colour
    )


def _draw_textured(sheet: Sheet, subject: Subject, texture: str, *, colour: RGB) -> None:
    subject.draw(sheet.pen.at(0, 0, 0.8), colour)
    mask, pen = sheet.mask()
    subject.draw(pen.at(0, 0, 0.8), colour)
    half = mask.point(lambda level: level // 3)
    kind = digest_of("texture", texture)[0]
    sheet.paste_pattern(half, pattern_of(kind, tone(colour), size=sheet.image.width))


def draw_chimera_of(sheet: Sheet, words: re.Match[str]) -> None:
    """The first animal's head on the second one's body."""
    flat = words["kind"] == "emoji"
    sheet.fill((240, 240, 244) if flat else (214, 226, 214))
    draw_chimera(
        sheet.pen.at(0, 0, 0.85), find_animal(words["first"]), find_animal(words["second"])
    )


def find_animal(word: str) -> Animal:
    """The animal of this name, or of the name in the table with the most similar beginning."""
    return ANIMALS.get(word) or ANIMALS[min(ANIMALS, key=lambda name: (name[:1] != word[:1], name))]


def draw_dressed_up(sheet: Sheet, words: re.Match[str]) -> None:
    """A vegetable or a baby animal, in clothes, doing something."""
    sheet.fill((238, 242, 246))
    subject = find_subject(words["subject"])
    pen = sheet.pen.at(-0.1, 0, 0.72)
    subject.draw(pen)
    if subject.animal is None:
        draw_face(pen.at(0, -0.05, 0.5), tone(subject.colour))
    wear(pen, subject.animal, words["attire"])
    _draw_prop(sheet, words["action"])


def _draw_prop(sheet: Sheet, action: str) -> None:
    known = {
        "umbrella": (0.62, -0.55),
        "dog": (0.68, 0.58),
        "snowman": (0.7, 0.4),
        "guitar": (0.55, 0.3),
    }
    pen = sheet.pen
    if "lightsaber" in action:
        pen.line([(0.45, 0.4), (0.85, -0.7)], PALETTE["blue"], 0.1)
    elif "umbrella" in action:
        pen.line([(0.62, -0.5), (0.62, 0.4)], INK, 0.05)
        pen.polygon([(0.2, -0.45), (0.62, -0.85), (1.04, -0.45)], PALETTE["red"])
    elif "snowman" in action:
        pen.circle(0.7, 0.55, 0.26, (250, 250, 250))
        pen.circle(0.7, 0.18, 0.18, (250, 250, 250))
    else:
        word = next(
            (word for word in reversed(action.split()) if word in known or len(word) > 3), action
        )
        find_subject(word).draw(pen.at(*known.get(word, (0.68, 0.5)), 0.27))


def draw_lettered(sheet: Sheet, words: re.Match[str]) -> None:
    """A large object with a word on it."""
    sheet.fill((226, 230, 236))
    surface = words["surface"]
    colour = seeded_hue(surface)
    shape = _SURFACES.get(surface.split()[-1], things.sheet_of_paper)
    if surface.startswith("written in"):
        sheet.fill((150, 200, 240) if "sky" in surface else (226, 206, 170))
    else:
        shape(sheet.pen.at(0, 0, 0.9), tone(colour))
        sheet.pen.box(-0.92, -0.32, 0.92, 0.32, PALE)
    write_word(sheet.pen, words["word"], INK)


_SURFACES = {
    "soda": things.bottle,
    "soup": things.bottle,
    "mouthwash": things.bottle,
    "front": things.house,
    "tissues": things.tissue_box,
    "bag": things.purse,
    "chips": things.purse,
}


def draw_cut_open(sheet: Sheet, words: re.Match[str]) -> None:
    """An object with two smaller, paler outlines of itself inside."""
    sheet.fill((240, 240, 244))
    subject = find_subject(words["object"])
    pale: RGB = (250, 236, 206)
    for scale, share in ((0.85, 0.0), (0.66, 0.5), (0.42, 0.85)):
        subject.draw(sheet.pen.at(0, 0, scale), mix(subject.colour, pale, share))
    sheet.pen.circle(0, 0.05, 0.09, tone(subject.colour).dark)


def draw_macro(sheet: Sheet, words: re.Match[str]) -> None:
    """A surface that fills the image, and the object itself, very large."""
    subject = find_subject(words["object"])
    kind = digest_of("texture", words["object"])[0]
    sheet.image.paste(pattern_of(kind, tone(sheet.tint(subject.colour)), size=sheet.image.width))
    subject.draw(sheet.pen.at(0.05, 0.1, 1.15), mix(subject.colour, (255, 255, 255), 0.2))


def draw_era_thing(sheet: Sheet, words: re.Match[str]) -> None:
    """An object in its era: brown and gray long ago, colourful later, pale and bright in the future."""
    grounds = {
        "19": (206, 186, 150),
        "20": (214, 198, 164),
        "fu": (206, 240, 250),
        "di": (60, 40, 110),
    }
    era = words["era"]
    sheet.fill(grounds.get(era[:2], (232, 232, 236)))
    colour = mix(
        seeded_hue(era), (120, 96, 70), 0.6 if era[:2] in grounds and era[:2] < "99" else 0.0
    )
    find_subject(words["object"]).draw(sheet.pen.at(0, 0.05, 0.78), colour)


def draw_bust(sheet: Sheet, words: re.Match[str]) -> None:
    """A stone head that rotates with the frame number."""
    sheet.fill((60, 62, 70))
    stone = mix(seeded_hue(words["figure"]), (226, 222, 214), 0.8)
    pen = sheet.pen.at(0, 0.05, 0.82)
    things.bust(pen, tone(stone))
    turn = (sheet.rank % 32 / 31 - 0.5) * 0.6
    for side in (-0.2, 0.2):
        pen.circle(turn + side, -0.35, 0.07, tone(stone).line)
    pen.line([(turn, -0.3), (turn * 1.25, -0.08)], tone(stone).dark, 0.07)


def draw_mirror(sheet: Sheet, words: re.Match[str]) -> None:
    """An object, and the same object again in a frame."""
    sheet.fill((222, 214, 206))
    subject = find_subject(words["object"])
    pen = sheet.pen
    pen.box(0.08, -0.8, 0.95, 0.75, (196, 148, 28))
    pen.box(0.15, -0.73, 0.88, 0.68, (190, 214, 232))
    subject.draw(pen.at(0.52, 0.1, 0.32))
    subject.draw(pen.at(-0.5, 0.25, 0.46))


def draw_anything(sheet: Sheet, words: re.Match[str]) -> None:
    """The fallback: the last object that the caption names, in the first colour that it names."""
    text = words[0]
    names = colours_named(text)
    colour = PALETTE[names[0]] if names else None
    sheet.ground_for(*(PALETTE[name] for name in names))
    find_subject(text.rstrip(".")).draw(sheet.pen.at(0, 0, 0.75), colour)
