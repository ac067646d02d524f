"""Draw an image for a caption and a rank: its content in bold shapes; pure, the same on every machine.

`draw` uses the first rule whose pattern matches the caption. Ranks differ by a small shift, a scale and a
tint that grow with the rank, never in the content of the caption.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from pipeline.demo.replica.palette import PALETTE
from pipeline.demo.replica.shapes import blocks, changes, countries, portraits, scenery
from pipeline.demo.replica.shapes.sheet import Sheet

Scene = Callable[[Sheet, "re.Match[str]"], None]

# The rank with which the prompted part of a masked image is drawn: the same for all its ranks.
PROMPT_RANK = -1
PNG_LEVEL = 1

_COLOUR = "|".join(PALETTE)
# Captions are normalised before matching: every article is `a`, and quotes are straight.
_RULES: tuple[tuple[str, Scene], ...] = (
    (r"a (?P<size1>\w+) (?P<color1>{c}) block (?P<position>[a-z ]+?) a (?P<size2>\w+) (?P<color2>{c}) block",
     blocks.draw_blocks),
    (r"a stack of 3 cubes\. a (?P<top>{c}) cube .* sitting on a (?P<middle>{c}) cube\..*"
     r"sitting on a (?P<bottom>{c}) cube\..*", blocks.draw_stack),
    (r"a collection of (?:(?P<count>two|three|four|five|six|seven|eight|nine) )?(?P<object>.+) "
     r"(?:is|are) sitting on a table", blocks.draw_collection),
    (r"a (?P<solid>\w+) made of (?P<material>.+)\. a (?P=solid) with the texture of a .+",
     portraits.draw_made_of),
    (r"a (?P<polygon>\w+) (?P<color>{c}) (?P<object>\w+)\. a .* in the shape of a \w+\.",
     blocks.draw_polygon_thing),
    (r"a sequence of geometric shapes\.", blocks.draw_matrix),
    (r"a emoji of a baby (?P<animal>\w+) wearing a (?P<hat>{c}) hat, (?P<gloves>{c}) gloves, "
     r"(?P<shirt>{c}) shirt,? and (?P<pants>{c}) pants", portraits.draw_dressed_baby),
    (r"a (?:fe)?male mannequin dressed in a (?P<color1>{c}) (?:and (?P<second>{c}) )?(?P<top>.+?)"
     r" and (?P<color2>{c}) (?P<bottom>.+)", portraits.draw_mannequin),
    (r"a (?P<medium>.+) with a image of a (?P<color>{c}) (?P<object>.+)", portraits.draw_medium),
    (r"a (?P<product>.+) in the (?:shape|form|style) of a (?P<thing>.+)\. a .+ imitating a .+\.",
     portraits.draw_product),
    (r"a professional high quality (?P<kind>\w+) of a (?P<first>\w+) (?P<second>\w+) chimera\..*",
     portraits.draw_chimera_of),
    (r"a professional high quality emoji of a (?P<mood>\w+) (?P<subject>.+)", portraits.draw_emoji),
    (r"a illustration of (?:a )?(?P<subject>.+?) (?:in|with) (?:a )?"
     r"(?P<attire>beanie|cape|christmas sweater|helmet|leather jacket|suit|tutu|wizard hat|pajamas|mustache"
     r"|headphones|sunglasses) (?P<action>.+)", portraits.draw_dressed_up),
    (r"a (?P<surface>.+?) that has the word '(?P<word>[^']+)' written on it\..*", portraits.draw_lettered),
    (r"a cross-section view of a (?P<object>.+)", portraits.draw_cut_open),
    (r"a macro photograph of (?P<object>.+)", portraits.draw_macro),
    (r"a photo of a (?P<object>.+) from the (?P<era>.+)", portraits.draw_era_thing),
    (r"a photograph of a bust of (?P<figure>.+)", portraits.draw_bust),
    (r"a (?P<object>.+) looking at its own reflection in a mirror\..*", portraits.draw_mirror),
    (r"the exact same (?P<subject>\w+) on the top (?P<change>.+) on the bottom", changes.draw_same_again),
    (r"a living room with two (?P<color>{c}) armchairs and a painting of (?P<subject>.+)\. "
     r"the painting is mounted (?P<where>.+)\.", scenery.draw_living_room),
    (r"a loft bedroom with a (?P<bed>.+) next to a (?P<furniture>\w+)\. there is a (?P<object>.+?) "
     r"(?:standing )?beside the bed\.", scenery.draw_bedroom),
    (r"a photo of (?P<name>.+), san francisco, (?P<view>from .+?) (?P<time>(?:at|in) .+)",
     scenery.draw_neighborhood),
    (r"a photo of san francisco's (?P<name>.+)", scenery.draw_landmark),
    (r"a photo of the (?P<what>.+? (?:of|in)) (?P<country>.+)", countries.draw_country),
    (r"(?P<view>)a (?P<animal>\w+) made of voxels sitting in a field",
     scenery.draw_voxels),
    (r"(?P<view>a .*view) of a (?P<animal>\w+) sitting in a field", scenery.draw_field),
    (r"a (?P<style>.+) of a (?P<animal>\w+) (?P<place>sitting .+?) (?P<time>(?:at|in the|during) \w+)",
     scenery.draw_landscape),
    (r".*", portraits.draw_anything),
)  # fmt: skip
_SCENES = tuple(
    (re.compile(pattern.replace("{c}", _COLOUR), re.S), scene) for pattern, scene in _RULES
)


def draw(caption: str, rank: int, *, size: int = 256, masked_rows: int = 0) -> Image.Image:
    """The RGB image of `caption` at `rank` (0..63), `size` pixels square.

    The upper `masked_rows` rows are the image prompt's: the same for every rank.
    """
    image = _draw_scene(caption, rank, size=size)
    if masked_rows:
        image.paste(draw_prompt(caption, size=size, rows=masked_rows))
    return image


def draw_prompt(caption: str, *, size: int = 256, rows: int) -> Image.Image:
    """The prompted part of a masked image: its upper `rows` rows of pixels."""
    return _draw_scene(caption, PROMPT_RANK, size=size).crop((0, 0, size, rows))


def encode_png(image: Image.Image) -> bytes:
    """Encode an RGB image as a PNG file (RFC 2083) without metadata.

    Twice as fast as a general encoder: flat images need no row filters.
    """
    width, height = image.size
    raw, stride = image.tobytes(), 3 * width
    rows = b"".join(b"\0" + raw[start : start + stride] for start in range(0, len(raw), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, PNG_LEVEL)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _draw_scene(caption: str, rank: int, *, size: int) -> Image.Image:
    sheet = Sheet(caption, rank, size=size)
    plain = _plain(caption)
    for pattern, scene in _SCENES:
        match = pattern.fullmatch(plain)
        if match is not None:
            scene(sheet, match)
            break
    return sheet.image


def _plain(caption: str) -> str:
    folded = " ".join(caption.lower().replace("’", "'").replace("‘", "'").split())
    return re.sub(r"\ban (?=\w)", "a ", folded)
