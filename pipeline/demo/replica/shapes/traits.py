"""A table of the traits that distinguish animals at a glance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.demo.replica.palette import RGB


@dataclass(frozen=True)
class Animal:
    """The traits that distinguish an animal at a glance."""

    colour: RGB
    body: str = "four legs"
    ears: str = "round"
    extras: tuple[str, ...] = ()


def _row(colour: RGB, body: str = "four legs", ears: str = "round", *extras: str) -> Animal:
    return Animal(colour, body, ears, extras)


ANIMALS: Mapping[str, Animal] = {
    "albatross": _row((226, 226, 230), "bird", "none", "beak"),
    "alligator": _row((74, 124, 60), "long", "none", "snout", "teeth"),
    "alpaca": _row((232, 214, 184), "four legs", "long", "tuft"),
    "axolotl": _row((250, 176, 190), "long", "gills"),
    "bat": _row((70, 62, 74), "wings", "pointed", "teeth"),
    "beaver": _row((124, 78, 44), "four legs", "round", "teeth", "tail"),
    "bunny": _row((222, 214, 208), "four legs", "tall", "teeth"),
    "capybara": _row((150, 106, 66), "four legs", "round", "snout"),
    "cat": _row((228, 150, 70), "four legs", "pointed", "whiskers", "tail"),
    "chicken": _row((244, 238, 226), "bird", "comb", "beak"),
    "chipmunk": _row((186, 120, 62), "four legs", "round", "teeth", "stripes", "tail"),
    "cockatoo": _row((250, 246, 226), "bird", "comb", "beak"),
    "cougar": _row((204, 160, 104), "four legs", "round", "whiskers", "tail"),
    "dog": _row((168, 112, 62), "four legs", "floppy", "snout", "tail"),
    "dragon": _row((150, 34, 44), "wings", "horns", "snout", "teeth"),
    "eagle": _row((96, 66, 44), "bird", "none", "beak", "wings"),
    "eel": _row((70, 84, 74), "snake", "none"),
    "elephant": _row((142, 146, 156), "four legs", "huge", "trunk"),
    "emu": _row((104, 84, 66), "bird", "none", "beak", "neck"),
    "flamingo": _row((248, 132, 160), "bird", "none", "beak", "neck"),
    "fox": _row((226, 108, 36), "four legs", "pointed", "snout", "tail"),
    "frog": _row((86, 168, 62), "four legs", "eyes on top"),
    "giraffe": _row((226, 176, 80), "four legs", "horns", "neck", "spots"),
    "golden retriever": _row((222, 170, 92), "four legs", "floppy", "snout", "tail"),
    "hedgehog": _row((128, 98, 74), "spikes", "round", "snout"),
    "isopod": _row((118, 124, 136), "bug", "feelers"),
    "jellyfish": _row((166, 140, 226), "tentacles", "none"),
    "kangaroo": _row((184, 128, 80), "upright", "tall", "snout", "tail"),
    "koala": _row((150, 156, 166), "upright", "huge", "nose"),
    "lemur": _row((120, 116, 122), "upright", "round", "stripes", "tail"),
    "lion": _row((222, 164, 70), "four legs", "mane", "whiskers", "tail"),
    "lobster": _row((206, 44, 36), "bug", "feelers", "claws"),
    "mammoth": _row((116, 76, 50), "four legs", "huge", "trunk", "teeth", "tuft"),
    "manatee": _row((140, 148, 156), "fish", "none", "snout"),
    "mantis": _row((112, 178, 60), "bug", "feelers", "claws"),
    "moose": _row((104, 70, 44), "four legs", "antlers", "snout"),
    "octopus": _row((196, 78, 110), "tentacles", "none"),
    "owl": _row((136, 98, 62), "upright", "pointed", "beak", "big eyes"),
    "panda": _row((246, 246, 246), "upright", "round", "patches"),
    "pangolin": _row((138, 108, 72), "scales", "round", "snout", "tail"),
    "peacock": _row((20, 110, 150), "fan", "comb", "beak"),
    "penguin": _row((36, 40, 52), "upright", "none", "beak", "belly"),
    "phoenix": _row((240, 96, 26), "fan", "comb", "beak", "wings"),
    "pig": _row((250, 164, 178), "four legs", "pointed", "nose"),
    "pikachu": _row((252, 214, 48), "upright", "tall", "cheeks"),
    "rabbit": _row((198, 186, 176), "four legs", "tall", "teeth"),
    "rhinoceros": _row((132, 134, 140), "four legs", "round", "horn"),
    "robot": _row((156, 166, 178), "box", "antenna"),
    "shark": _row((106, 122, 140), "fish", "none", "teeth", "fin"),
    "shrimp": _row((246, 146, 112), "bug", "feelers"),
    "snail": _row((190, 150, 96), "shell", "feelers"),
    "snake": _row((70, 146, 62), "snake", "none", "tongue"),
    "spider": _row((52, 46, 54), "bug", "none", "big eyes"),
    "squid": _row((232, 120, 140), "tentacles", "fins"),
    "starfish": _row((244, 140, 52), "star", "none"),
    "t-rex": _row((92, 132, 70), "upright", "none", "snout", "teeth", "tail"),
    "tapir": _row((88, 84, 92), "four legs", "round", "trunk", "belly"),
    "tiger": _row((238, 136, 34), "four legs", "round", "stripes", "whiskers", "tail"),
    "toad": _row((120, 112, 62), "four legs", "eyes on top", "spots"),
    "toucan": _row((38, 38, 46), "bird", "none", "beak", "belly"),
    "turtle": _row((62, 138, 78), "shell", "none"),
    "walrus": _row((142, 104, 88), "fish", "none", "teeth", "whiskers"),
    "warthog": _row((126, 88, 66), "four legs", "pointed", "nose", "teeth", "tuft"),
    "whale": _row((52, 96, 148), "fish", "none", "spout"),
    "wombat": _row((126, 104, 92), "four legs", "round", "nose"),
    "zebra": _row((240, 240, 240), "four legs", "pointed", "stripes", "tuft"),
}
