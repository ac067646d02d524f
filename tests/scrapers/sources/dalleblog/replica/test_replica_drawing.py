"""Images show what their captions say, are the same on every run, and differ by rank."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.demo.replica.drawing import draw, encode_png
from pipeline.demo.replica.palette import PALETTE, colours_named
from scrapers.sources.dalleblog.captions import load_catalogue

SECTIONS = {section.name: section for section in load_catalogue().sections}
BLOCKS = "a {} red block {} a {} green block"
EXAMPLES = [next(section.captions())[0] for section in SECTIONS.values()]


def where(image: Image.Image, colour: str) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """A mask, rows by columns, of the pixels of exactly this colour."""
    mask = (np.asarray(image) == np.array(PALETTE[colour], dtype=np.uint8)).all(axis=-1)
    return np.asarray(mask)


def count(image: Image.Image, colour: str) -> int:
    return int(where(image, colour).sum())


def centre(image: Image.Image, colour: str) -> tuple[float, float]:
    """The mean (x, y) of the pixels of this colour."""
    ys, xs = np.nonzero(where(image, colour))
    assert len(xs), f"no {colour} in the picture"
    return float(xs.mean()), float(ys.mean())


# --- The same, and different ---------------------------------------------------------------------


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import hashlib; from pipeline.demo.replica.drawing import draw\n"
        f"for c in {EXAMPLES!r}: print(hashlib.sha256(draw(c, 7, size=64).tobytes()).hexdigest())"
    )
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(sys.path)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    here = [hashlib.sha256(draw(c, 7, size=64).tobytes()).hexdigest() for c in EXAMPLES]
    assert output.split() == here


@pytest.mark.parametrize("caption", EXAMPLES)
def test_the_32_ranks_of_a_caption_are_32_different_images(caption: str) -> None:
    assert len({draw(caption, rank, size=64).tobytes() for rank in range(32)}) == 32


@pytest.mark.parametrize("name", SECTIONS)
def test_captions_of_a_section_have_different_images(name: str) -> None:
    captions = [forms[0] for forms, _ in zip(SECTIONS[name].captions(), range(60), strict=False)]
    pictures = Counter(draw(caption, 0, size=96).tobytes() for caption in captions)
    assert len(pictures) == len(captions)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_an_image_is_rgb_and_has_the_requested_size(size: int) -> None:
    image = draw("a teapot", 0, size=size)
    assert (image.mode, image.size) == ("RGB", (size, size))


def test_the_png_contains_the_pixels_and_no_metadata() -> None:
    image = draw(EXAMPLES[0], 3)
    data = encode_png(image)
    with Image.open(io.BytesIO(data)) as read:
        assert read.format == "PNG"
        assert read.tobytes() == image.tobytes()
        assert read.info == {}
    assert 1_000 < len(data) < 30_000


# --- Content of captions -------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, 15, 31])
@pytest.mark.parametrize("colour", SECTIONS["unusual_media"].slots["color"])
def test_a_medium_carries_a_large_object_of_the_named_colour(colour: str, rank: int) -> None:
    for medium in SECTIONS["unusual_media"].slots["medium"]:
        for thing in SECTIONS["unusual_media"].slots["object"][rank % 3 :: 3]:
            image = draw(f"a {medium} with an image of a {colour} {thing}", rank, size=96)
            counts = {name: count(image.crop((24, 24, 72, 72)), name) for name in PALETTE}
            assert max(counts, key=lambda name: counts[name]) == colour
            assert counts[colour] > 0.25 * 48 * 48, f"{colour} {thing} on {medium}"


@pytest.mark.parametrize("first", ["small", "large"])
@pytest.mark.parametrize("second", ["small", "large"])
def test_blocks_have_the_named_sizes(first: str, second: str) -> None:
    image = draw(BLOCKS.format(first, "standing left of", second), 4)
    red, green = count(image, "red"), count(image, "green")
    ratio = {("small", "large"): 0.31, ("large", "small"): 3.24}.get((first, second), 1.0)
    assert red / green == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize("rank", range(0, 32, 5))
def test_blocks_are_positioned_as_the_caption_says(rank: int) -> None:
    def both(position: str) -> tuple[tuple[float, float], tuple[float, float]]:
        image = draw(BLOCKS.format("large", position, "large"), rank)
        return centre(image, "red"), centre(image, "green")

    (_, red), (_, green) = both("sitting on")
    assert red < green
    (_, red), (_, green) = both("sitting below")
    assert red > green
    (red, _), (green, _) = both("standing left of")
    assert red < green
    (red, _), (green, _) = both("standing right of")
    assert red > green


def test_the_block_in_front_hides_the_one_behind() -> None:
    front = draw(BLOCKS.format("large", "standing in front of", "large"), 0)
    behind = draw(BLOCKS.format("large", "standing behind", "large"), 0)
    assert count(front, "red") > 1.2 * count(front, "green")
    assert count(behind, "green") > 1.2 * count(behind, "red")


@pytest.mark.parametrize("colours", [("red", "green", "blue"), ("yellow", "purple", "orange")])
def test_cubes_are_stacked_in_the_named_order(colours: tuple[str, str, str]) -> None:
    caption = SECTIONS["stacking_snap"].template.format(
        top=colours[0], middle=colours[1], bottom=colours[2]
    )
    image = draw(caption, 9)
    heights = [centre(image, colour)[1] for colour in colours]
    assert heights == sorted(heights)


@pytest.mark.parametrize("rank", [0, 31])
def test_each_piece_of_a_penguins_clothes_has_its_colour(rank: int) -> None:
    caption = (
        "an emoji of a baby penguin wearing a red hat, blue gloves, green shirt, and yellow pants"
    )
    image = draw(caption, rank)
    hat, shirt, pants = (centre(image, colour)[1] for colour in ("red", "green", "yellow"))
    assert hat < shirt < pants
    xs = np.nonzero(where(image, "blue"))[1]
    assert xs.max() - xs.min() > 150  # one glove on each side


def test_the_top_and_bottom_of_a_mannequin_have_their_colours() -> None:
    image = draw("a male mannequin dressed in an orange polo shirt and navy jeans", 2)
    assert centre(image, "orange")[1] < centre(image, "navy")[1]


def test_every_colour_of_a_caption_about_clothes_is_in_the_image() -> None:
    sections = ("multiple_attributes", "male_fashion_design", "living_room_design", "shape")
    for name in sections:
        captions = [forms[0] for forms in SECTIONS[name].captions()]
        for caption in captions[:: max(1, len(captions) // 25)]:
            image = draw(caption, 1)
            for colour in colours_named(caption):
                assert count(image, colour) > 40, (caption, colour)


@pytest.mark.parametrize(("word", "number"), [("two", 2), ("three", 3), ("five", 5)])
def test_the_table_has_the_named_number_of_objects(word: str, number: int) -> None:
    image = draw(f"a collection of {word} apples is sitting on a table", 0)
    columns = where(image, "red").any(axis=0)
    begins = np.diff(columns.astype(int), prepend=0) == 1
    assert begins.sum() == number


def test_the_same_teapot_is_on_top_and_the_changed_one_below() -> None:
    caption = "the exact same teapot on the top colored pink on the bottom"
    first, second = draw(caption, 0, masked_rows=128), draw(caption, 30, masked_rows=128)
    top, bottom = (0, 0, 256, 128), (0, 128, 256, 256)
    assert first.crop(top).tobytes() == second.crop(top).tobytes()
    assert first.crop(bottom).tobytes() != second.crop(bottom).tobytes()
    assert centre(first, "blue")[1] < 128 < centre(first, "pink")[1]


def test_either_article_draws_the_same_object() -> None:
    agreeing = draw("an armchair in the shape of a peach. an armchair imitating a peach.", 0)
    written = draw("an armchair in the shape of an peach. an armchair imitating an peach.", 0)
    peach = (252, 170, 120)
    for image in (agreeing, written):
        colours = image.getcolors(1 << 16)
        assert colours is not None
        assert peach in {colour for _, colour in colours}


@pytest.mark.parametrize("caption", ["", "{}", "☃" * 5000, "a painting of nothing at all", "\0"])
def test_any_text_yields_an_image(caption: str) -> None:
    assert draw(caption, 0, size=64).size == (64, 64)
