"""Map the words of captions to shapes and their natural colours."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

from pipeline.demo.replica.palette import PALETTE, RGB
from pipeline.demo.replica.shapes import produce, things
from pipeline.demo.replica.shapes.animals import draw_animal
from pipeline.demo.replica.shapes.canvas import Pen, Tone, tone
from pipeline.demo.replica.shapes.traits import ANIMALS, Animal

Shape = Callable[[Pen, Tone], None]

# word: (shape, name in the palette or an RGB colour)
_LOOKS: dict[str, tuple[Shape, str | RGB]] = {
    "airplane": (things.airplane, "gray"), "apple": (produce.round_fruit, "red"),
    "armchair": (things.armchair, "brown"), "artichoke": (produce.artichoke, "green"),
    "avocado": (produce.avocado, "green"), "baguette": (produce.loaf, "gold"),
    "banana": (produce.loaf, "yellow"), "basil": (produce.bunch_of_leaves, "green"),
    "beehive": (produce.artichoke, "gold"), "beet": (produce.radish, "purple"),
    "beetroot": (produce.radish, "purple"), "bench": (things.bench, "brown"),
    "bok choy": (produce.bunch_of_leaves, "green"), "bowl of ramen": (produce.bowl, "orange"),
    "brain": (produce.broccoli, "pink"), "brain coral": (produce.cut_fruit, "pink"),
    "bread": (produce.loaf, "gold"), "broccoli": (produce.broccoli, "green"),
    "burger": (produce.burger, "orange"), "burrito": (produce.loaf, "beige"),
    "butterfly wing": (produce.flower, "blue"), "cabbage": (produce.round_fruit, "green"),
    "cactus": (produce.pot_plant, "green"), "cake": (produce.cake, "pink"),
    "calamari": (produce.doughnut, "beige"), "camera": (things.camera, "gray"),
    "car": (things.car, "red"), "carrot": (produce.carrot, "orange"),
    "chili": (produce.carrot, "red"), "clock": (things.clock, "gold"),
    "coconut": (things.ball, "brown"), "coffee table": (things.table, "brown"),
    "computer": (things.screen, "gray"), "conveyance or vehicle": (things.car, "blue"),
    "coral reef": (produce.broccoli, "orange"), "croissant": (produce.loaf, "gold"),
    "cube": (things.cuboid, "gray"), "cuckoo clock": (things.house, "brown"),
    "cucumber": (produce.cucumber, "green"), "cup of boba": (produce.cup, "beige"),
    "daikon radish": (produce.radish, "white"), "doughnut": (produce.doughnut, "pink"),
    "dragonfruit": (produce.artichoke, "magenta"), "durian": (produce.spiky_ball, "olive"),
    "earth": (things.ball, "blue"), "eggplant": (produce.eggplant, "purple"),
    "engine": (things.radio, "gray"), "flower": (produce.flower, "red"),
    "fries": (things.tissue_box, "yellow"),
    "garlic": (produce.pear, "ivory"), "geode": (produce.cut_fruit, "violet"),
    "glacier": (things.volcano, (150, 206, 236)), "glasses": (things.glasses, "black"),
    "gourd": (produce.pear, "olive"), "guitar": (produce.pear, "brown"),
    "heart": (things.heart, "red"), "hibiscus": (produce.flower, "magenta"),
    "human head": (things.bust, "beige"), "ice cream cone": (produce.ice_cream, "pink"),
    "japanese maple": (produce.tree, "red"), "kettle": (things.teapot, "gray"),
    "lamp": (things.lamp, "yellow"), "leather armchair": (things.armchair, "brown"),
    "leather purse": (things.purse, "brown"), "lettuce": (produce.bunch_of_leaves, "green"),
    "loaf of bread": (produce.loaf, "gold"), "lotus": (produce.flower, "pink"),
    "lotus root": (produce.cut_fruit, "ivory"), "lychee": (produce.round_fruit, "pink"),
    "magazine cover": (things.sheet_of_paper, "magenta"), "mango": (produce.pear, "orange"),
    "action movie poster": (things.sheet_of_paper, "red"),
    "mangosteen": (produce.round_fruit, "purple"), "maple leaf": (produce.flower, "orange"),
    "motorcycle": (things.car, "black"), "mount fuji": (things.volcano, "blue"),
    "mushroom": (produce.mushroom, "red"), "music device": (things.radio, "purple"),
    "orange": (produce.round_fruit, "orange"), "orchid": (produce.flower, "violet"),
    "parsnip": (produce.carrot, "ivory"), "peach": (produce.round_fruit, (252, 170, 120)),
    "pear": (produce.pear, "green"), "phone": (things.phone, "red"),
    "pickle": (produce.cucumber, "olive"), "pie": (produce.cake, "gold"),
    "pineapple": (produce.pineapple, "yellow"), "pinecone": (produce.artichoke, "brown"),
    "pizza": (produce.pizza, "yellow"), "plain white cube": (things.cuboid, "white"),
    "plate": (produce.cut_fruit, "white"), "pomegranate": (produce.cut_fruit, "red"),
    "pretzel": (produce.doughnut, "brown"), "pumpkin": (produce.pumpkin, "orange"),
    "purse": (things.purse, "magenta"), "radish": (produce.radish, "magenta"),
    "raspberry": (produce.strawberry, "magenta"), "rocket": (things.rocket, "white"),
    "rosemary": (produce.bunch_of_leaves, "olive"), "rubik's cube": (things.cuboid, "yellow"),
    "sardines": (things.table, "gray"), "sequoia": (produce.tree, "green"),
    "soap dispenser": (things.soap_dispenser, "blue"), "soda can": (things.bottle, "red"),
    "squash": (produce.pumpkin, "gold"), "statue of david": (things.bust, "ivory"),
    "strawberry": (produce.strawberry, "red"), "succulent": (produce.pot_plant, "green"),
    "aloe plant": (produce.pot_plant, "green"), "sun": (produce.spiky_ball, "yellow"),
    "tea cup": (produce.bowl, "white"), "teapot": (things.teapot, "blue"),
    "television": (things.screen, "brown"), "tennis ball": (things.ball, "yellow"),
    "tissue box": (things.tissue_box, "blue"), "tomato": (produce.round_fruit, "red"),
    "tree": (produce.tree, "green"), "turnip": (produce.radish, "violet"),
    "vacuum cleaner": (things.vacuum_cleaner, "red"), "virus": (produce.spiky_ball, "green"),
    "volcano": (things.volcano, "brown"), "waffle": (produce.cake, "gold"),
    "walnut": (produce.cut_fruit, "brown"), "watermelon": (produce.cut_fruit, "red"),
    "wheel of blue cheese": (produce.cut_fruit, "ivory"), "white teapot": (things.teapot, "white"),
    "windmill": (things.tower, "brown"), "cherry blossom": (produce.flower, "pink"),
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """The subject of a phrase: how it is drawn, its natural colour, and its traits if it is an animal."""

    shape: Shape
    colour: RGB
    animal: Animal | None = None

    def draw(self, pen: Pen, colour: RGB | None = None) -> None:
        """Draw it in its natural colour, or in another one."""
        self.shape(pen, tone(colour or self.colour))


@lru_cache(maxsize=4096)
def find_subject(phrase: str) -> Subject:
    """The subject that `phrase` (lower case, no article) names.

    Looks up the whole phrase, then its last words (`baby penguin`, `slice of pepperoni pizza`), then any
    known word; otherwise it is an outline and a colour that depend only on the phrase.
    """
    words = phrase.replace("’", "'").split()
    tails = [" ".join(words[start:]) for start in range(len(words))]
    singles = [word.removesuffix("s") for word in reversed(words)]
    for candidate in (*tails, *singles):
        if candidate in ANIMALS:
            animal = ANIMALS[candidate]
            return Subject(partial(_draw_beast, animal=animal), animal.colour, animal)
        if candidate in _LOOKS:
            shape, colour = _LOOKS[candidate]
            return Subject(shape, PALETTE[colour] if isinstance(colour, str) else colour)
    digest = digest_of(phrase)
    return Subject(partial(things.seeded_blob, word=digest), seeded_hue(phrase))


def digest_of(*parts: object) -> bytes:
    """64 bytes determined only by `parts`, the same on every machine."""
    return hashlib.blake2b("\x1f".join(map(str, parts)).encode()).digest()


def seeded_hue(phrase: str) -> RGB:
    """A clear colour determined by the phrase: one of twelve hues, in one of three shades."""
    first, second = digest_of("hue", phrase)[:2]
    hue, depth = first % 12, (0.95, 0.8, 0.62)[second % 3]
    sector, rest = divmod(hue / 2, 1)
    rising, falling = round(rest * 170) + 50, round((1 - rest) * 170) + 50
    rgb = (
        (220, rising, 50), (falling, 220, 50), (50, 220, rising),
        (50, falling, 220), (rising, 50, 220), (220, 50, falling),
    )[int(sector)]  # fmt: skip
    return (round(rgb[0] * depth), round(rgb[1] * depth), round(rgb[2] * depth))


def _draw_beast(pen: Pen, ink: Tone, *, animal: Animal) -> None:
    draw_animal(pen, animal, colour=ink.main)
