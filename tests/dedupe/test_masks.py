"""How far down a masked image is given: what the images of its caption share."""

from __future__ import annotations

import pytest

from pipeline.dedupe.inspection import BAND_BYTES, TOKEN_ROWS
from pipeline.dedupe.masks import HALF, measure_masks, shared_rows


def bands(shared: int, name: int) -> bytes:
    """Bands of an image that has `shared` rows in common with others, then its own."""
    rows = [bytes(BAND_BYTES)] * shared + [bytes([name] * BAND_BYTES)] * (TOKEN_ROWS - shared)
    return b"".join(rows)


def test_the_default_is_half_of_32_rows() -> None:
    assert (TOKEN_ROWS, HALF) == (32, 16)


@pytest.mark.parametrize("shared", [1, 8, 16, 31])
def test_rows_that_all_images_share_are_given(shared: int) -> None:
    assert shared_rows({bands(shared, name) for name in (1, 2, 3)}) == shared


def test_nothing_to_compare_is_half() -> None:
    assert shared_rows(set()) == HALF
    assert shared_rows({bands(8, 1)}) == HALF
    assert shared_rows({bands(0, 1), bands(0, 2)}) == HALF


def test_two_images_that_are_alike_by_chance_change_nothing() -> None:
    found = {bands(8, 1), bands(8, 2), bands(8, 3), bands(8, 4)}
    twin = bytearray(bands(8, 4))
    twin[-1] ^= 1
    assert shared_rows({*found, bytes(twin)}) == 8


def test_every_caption_of_a_section_is_measured_by_itself() -> None:
    images = [("s", "a", bands(8, 1)), ("s", "a", bands(8, 2)), ("s", "b", bands(4, 1))]
    images += [("s", "b", bands(4, 2)), ("t", "a", bands(9, 1))]
    assert measure_masks(images) == {("s", "a"): 8, ("s", "b"): 4, ("t", "a"): HALF}
