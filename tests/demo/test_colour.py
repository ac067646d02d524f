"""The demo's metric: the share of images in the colour that their prompt names first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.demo.colour import CANDIDATES, main_colour, share_generated
from pipeline.demo.replica.palette import PALETTE

PROMPT = "a blue cube on a pink table"


def picture(middle: str, around: str = "white", side: int = 128) -> Image.Image:
    """A square of one colour in the middle of another."""
    image = Image.new("RGB", (side, side), PALETTE[around])
    quarter = side // 4
    image.paste(PALETTE[middle], (quarter, quarter, side - quarter, side - quarter))
    return image


@pytest.mark.parametrize("colour", CANDIDATES)
def test_the_colour_of_the_middle_counts_and_not_what_is_around_it(colour: str) -> None:
    others = [other for other in CANDIDATES if other != colour]
    assert {main_colour(picture(colour, other)) for other in others} == {colour}


def test_most_pixels_decide() -> None:
    image = picture("blue")
    image.paste(PALETTE["black"], (32, 32, 96, 60))  # 28 of 64 rows
    assert main_colour(image) == "blue"
    image.paste(PALETTE["black"], (32, 32, 96, 68))
    assert main_colour(image) == "black"


@pytest.mark.parametrize(
    ("drawn", "share"),
    [(["blue", "blue"], 1.0), (["blue", "pink"], 0.5), (["pink", "pink"], 0.0), ([], 0.0)],
)
def test_the_share_is_that_of_images_in_the_first_colour_named(
    drawn: list[str], share: float, tmp_path: Path
) -> None:
    lines = []
    for number, colour in enumerate(drawn):
        picture(colour).save(tmp_path / f"{number}.png")
        record = {"prompt": PROMPT, "file": f"{number}.png"}
        lines.append(json.dumps(record) + "\n")
    (tmp_path / "records.jsonl").write_text("".join(lines))
    assert share_generated(tmp_path, {PROMPT}) == share
