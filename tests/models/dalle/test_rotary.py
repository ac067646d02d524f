"""Angles of rotary positions, by the formula of DALLE-pytorch's transformer."""

from __future__ import annotations

import math

import pytest
import torch

from pipeline.models.dalle.config import DalleConfig
from pipeline.models.dalle.rotary import rotary_angles, rotate

SIZE, TEXT = 3, 4


def angles(dim_head: int) -> list[list[float]]:
    config = DalleConfig(
        dim=8, depth=1, heads=1, dim_head=dim_head, text_seq_len=TEXT, num_text_tokens=9,
        num_image_tokens=9, image_fmap_size=SIZE, rotary_emb=True,
    )  # fmt: skip
    found: list[list[float]] = rotary_angles(config).tolist()
    return found


@pytest.mark.parametrize("dim_head", [12, 24, 64])
def test_angles_are_places_times_frequencies(dim_head: int) -> None:
    """A third of the channels for the place in the text, a third for the row, a third for the column."""
    width = dim_head // 3
    pairs = width // 2
    text = [1 / 10_000 ** (2 * n / width) for n in range(pairs)]
    image = [math.pi * (1 + n * 4 / max(1, pairs - 1)) for n in range(pairs)]
    axis = [-1.0, 0.0, 1.0]
    places = [(float(n), -10.0, -10.0) for n in range(TEXT + 1)]
    places += [(8192.0, row, column) for row in axis for column in axis]
    found = angles(dim_head)
    assert len(found) == len(places)
    for row, (place, down, right) in zip(found, places, strict=True):
        expected = [
            angle
            for value, frequencies in ((place, text), (down, image), (right, image))
            for frequency in frequencies
            for angle in (value * frequency,) * 2
        ]
        assert row == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_pairs_of_channels_are_turned_and_the_rest_is_left() -> None:
    x = torch.tensor([1.0, 0.0, 0.0, 2.0, 5.0])[None, None, None]
    angle = torch.tensor([[math.pi / 2] * 4])
    turned = rotate(x, (angle.cos(), angle.sin()))[0, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([0.0, 1.0, -2.0, 0.0, 5.0]))
