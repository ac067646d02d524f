"""The contact sheet."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.generate.images import CAPTION_PX, MARGIN_PX, contact_sheet, encode_png

RED = encode_png(np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8), {})


@pytest.mark.parametrize("prompt", ["narrow illicit lily " * 40, "WIDE WOMAN " * 40, "W" * 9999])
@pytest.mark.parametrize("images", [1, 8])
def test_a_long_prompt_fills_its_line_and_is_cut_there(prompt: str, images: int) -> None:
    sheet = Image.open(io.BytesIO(contact_sheet([(prompt, [RED] * images)])))
    line = np.asarray(sheet.convert("L"))[: MARGIN_PX + CAPTION_PX - 2]
    (columns,) = np.nonzero((line < 128).any(axis=0))
    assert sheet.width - 30 < columns.max() < sheet.width - MARGIN_PX


def test_a_prompt_stands_above_its_images_and_hides_none() -> None:
    sheet = Image.open(io.BytesIO(contact_sheet([("gypsy jug", [RED]), ("a cube", [RED] * 9)])))
    pixels = np.asarray(sheet.convert("RGB")).astype(int)
    red = (abs(pixels - (255, 0, 0)) < 3).all(axis=2)
    assert red.sum() == 10 * 128 * 128


def test_letters_that_the_font_has_not_are_no_boxes() -> None:
    def sheet(prompt: str) -> bytes:
        return contact_sheet([(prompt, [RED])])

    assert sheet("süße Grüße à Łódź 猫") == sheet("susse Grusse a ?odz ?")
    assert sheet("a cat") != sheet("a dog")
