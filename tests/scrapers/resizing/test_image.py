"""One image resized: its size, its pixels, its format; and what stays as it came."""

from __future__ import annotations

import io
import os
import signal
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.core.engine import ProcessPool
from pipeline.core.image_decode import decode_image
from scrapers.resizing.image import resize_image
from scrapers.resizing.rule import EncodeFormat, ResizeRule

RULE = ResizeRule(size=32)


def photo(width: int, height: int) -> Image.Image:
    """A smooth picture, so that JPEG changes little."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = x * 255 / max(1, width - 1), y * 255 / max(1, height - 1)
    pixels = np.stack([red, green, np.full_like(red, 60)], axis=-1)
    return Image.fromarray(pixels.astype(np.uint8))


def noise() -> Image.Image:
    """An image whose JPEG has data to the last block."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def resized(image: Image.Image, rule: ResizeRule, kind: str = "PNG", **options: Any) -> Any:
    body, failure = resize_image((rule, encode(image, kind, **options)))
    assert failure is None
    return None if body is None else Image.open(io.BytesIO(body))


@pytest.mark.parametrize(("kind", "name"), [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")])
def test_a_larger_image_is_scaled_and_encoded(kind: EncodeFormat, name: str) -> None:
    found = resized(photo(96, 64), ResizeRule(size=32, format=kind))
    assert (found.format, found.size, found.mode) == (name, (32, 21), "RGB")
    wanted = photo(96, 64).resize((32, 21), Image.Resampling.BOX)
    assert np.abs(np.asarray(found, float) - np.asarray(wanted, float)).mean() < 3


def test_scaling_down_averages_areas() -> None:
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    image = Image.fromarray(checks.astype(np.uint8)).convert("RGB")
    found = np.asarray(resized(image, ResizeRule(size=32, format="png")))
    assert set(np.unique(found)) <= {127, 128}


def test_squares_are_cut_from_the_middle_or_padded_with_white() -> None:
    cut = np.asarray(resized(photo(128, 64), ResizeRule(size=32, mode="center_crop", format="png")))
    assert cut.shape == (32, 32, 3)
    scaled = photo(128, 64).resize((64, 32), Image.Resampling.BOX)
    assert np.array_equal(cut, np.asarray(scaled)[:, 16:48])
    rule = ResizeRule(size=32, mode="border", format="png")
    padded = np.asarray(resized(photo(64, 32), rule))
    assert padded.shape == (32, 32, 3)
    assert (padded[:8] == 255).all()
    assert (padded[-8:] == 255).all()
    assert not (padded[8:24] == 255).all(axis=-1).any()
    odd = np.asarray(resized(photo(64, 30), rule))  # 15 rows, 17 of white
    assert (odd[:8] == 255).all()
    assert not (odd[8] == 255).all()
    assert (odd[23:] == 255).all()


def test_quality_is_that_of_the_encoder() -> None:
    data = encode(noise(), "PNG")
    sizes = [
        len(resize_image((ResizeRule(size=32, quality=quality), data)).body or b"")
        for quality in (50, 95)
    ]
    assert 0 < sizes[0] < sizes[1]


def test_the_image_is_turned_and_transparency_is_flattened() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90°
    found = resized(photo(96, 48), RULE, "JPEG", exif=exif)
    assert found.size == (16, 32)
    assert not found.getexif()
    clear = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    data = encode(clear, "PNG")
    found = resized(clear, ResizeRule(size=32, format="png"))
    assert np.array_equal(np.asarray(found), decode_image(data).pixels_HWC[:32, :32])


def test_what_is_small_enough_or_broken_stays_as_it_came() -> None:
    assert resize_image((RULE, encode(photo(32, 8), "PNG"))) == (None, None)
    body, failure = resize_image((RULE, b"\x89PNG\r\n\x1a\nbroken"))
    assert body is None
    assert failure


def test_a_jpeg_whose_data_end_early_stays_as_it_came_for_dedupe_to_see() -> None:
    whole = encode(noise(), "JPEG")
    cut = whole[: len(whole) // 2] + b"\xff\xd9"
    body, failure = resize_image((RULE, cut))
    assert body is None
    assert failure


def die_or_double(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 0:
        raise ValueError("zero")
    return 2 * number


def test_a_pool_survives_the_death_of_its_processes_and_raises_errors() -> None:
    pool = ProcessPool(die_or_double, workers=2)
    try:
        futures = [pool.submit(number) for number in (1, -1, 2, 0, -1, 3)]
        values = [f.result() for f in futures if f.exception() is None]
        assert [found.value for found in values] == [2, None, 4, None, 6]
        assert ["SIGKILL" in (found.failure or "") for found in values] == [
            False, True, False, True, False,
        ]  # fmt: skip
        assert isinstance(futures[3].exception(), ValueError)
    finally:
        pool.close()
