"""Preprocessing: from an image file to a codec's pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.image_decode import DecodeError
from pipeline.models.codecs.pixels import read_square, to_images, to_pixels


def png_of(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_the_middle_of_a_wide_image_is_taken() -> None:
    image = Image.new("RGB", (90, 30), "red")
    image.paste("blue", (30, 0, 60, 30))
    pixels = read_square(png_of(image), 10)
    assert pixels.shape == (10, 10, 3)
    assert pixels.dtype == np.uint8
    # Resized as a whole, then cut: the neighbours shine through at the edges only.
    assert (pixels[:, 2:-2] == (0, 0, 255)).all()


def test_pixels_of_the_right_size_are_left_alone() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(read_square(png_of(Image.fromarray(noise)), 16), noise)


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "1"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert read_square(png_of(Image.new(mode, (8, 8))), 8).shape == (8, 8, 3)


@pytest.mark.parametrize("keep", [0, 20, 60])
def test_a_file_that_is_no_whole_image_has_a_stable_message(keep: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = png_of(Image.fromarray(noise))[:keep]
    words = []
    for _ in range(2):
        with pytest.raises(DecodeError, match=r".+") as caught:
            read_square(data, 8)
        words.append(str(caught.value))
    assert words[0] == words[1]
    assert "0x" not in words[0]


def test_pixels_survive_the_way_to_images_and_back() -> None:
    pixels_BHWC = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    images_BCHW = to_images(pixels_BHWC)
    assert (images_BCHW.dtype, tuple(images_BCHW.shape)) == (torch.float32, (2, 3, 8, 8))
    assert 0 <= images_BCHW.min() <= images_BCHW.max() <= 1
    assert np.array_equal(to_pixels(images_BCHW), pixels_BHWC)


@pytest.mark.parametrize(
    ("value", "pixel"),
    [
        (-1.0, 0),
        (0.0, 0),
        (0.4 / 255, 0),
        (0.6 / 255, 1),
        (254.4 / 255, 254),
        (254.6 / 255, 255),
        (2.0, 255),
    ],
)
def test_colours_are_rounded_to_the_nearest_of_256(value: float, pixel: int) -> None:
    assert to_pixels(torch.full((1, 3, 1, 1), value)).tolist() == [[[[pixel] * 3]]]


def test_all_pixels_come_back_from_their_colours() -> None:
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    images = to_images(pixels)
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert np.array_equal(to_pixels(images), pixels)
