"""The perceptual hash follows its definition, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pipeline.dedupe.phash import GRID, ImageStats, make_miniature, shrink
from pipeline.dedupe.phash import compute_stats as compute_all
from tests.helpers.dedupe import Pixels, photo


def compute_stats(pixels: Pixels) -> ImageStats:
    (portrait,) = compute_all([make_miniature(pixels)])
    return portrait


def distance(first: Pixels, second: Pixels) -> int:
    return (compute_stats(first).phash ^ compute_stats(second).phash).bit_count()


def hash_by_the_book(pixels: Pixels) -> int:
    """The definition in floating point, for sizes that divide into 32×32 cells."""
    height, width = pixels.shape[:2]
    luma = pixels @ np.array([0.299, 0.587, 0.114])
    cells = luma.reshape(GRID, height // GRID, GRID, width // GRID).mean(axis=(1, 3))
    angle = (2 * np.arange(GRID) + 1) * np.pi / (2 * GRID)
    cosines = np.cos(np.arange(1, 9)[:, None] * angle)
    coefficients = (cosines @ cells @ cosines.T).ravel()
    bits = coefficients > np.median(coefficients)
    return int("".join(str(int(bit)) for bit in bits), 2)


def test_the_hash_is_the_one_of_the_definition() -> None:
    for seed in range(50):
        found = compute_stats(photo(seed, 256, 256)).phash
        assert (found ^ hash_by_the_book(photo(seed, 256, 256))).bit_count() <= 2
        assert found.bit_count() == 32


def test_the_hash_of_a_known_image_never_changes() -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    ramp = np.stack([rows * 4, columns * 4, (rows * columns) % 256], axis=2).astype(np.uint8)
    assert compute_stats(ramp).phash == 0x050F3F3E78F070E1


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (33, 70), (100, 256), (64, 32)])
def test_any_size_is_shrunk_by_area(shape: tuple[int, int]) -> None:
    pixels = photo(3, *shape)
    cells = shrink(pixels)
    height, width = shape
    assert cells.shape == (3, GRID, GRID)
    assert cells.sum() == pixels.astype(int).sum() * GRID * GRID
    larger = np.kron(pixels, np.ones((GRID, GRID, 1), dtype=np.uint8))
    blocks = larger.reshape(GRID, height, GRID, width, 3).sum(axis=(1, 3), dtype=np.int64)
    np.testing.assert_array_equal(cells, blocks.transpose(2, 0, 1))


def test_another_size_and_another_encoding_look_alike() -> None:
    pixels = photo(1, 256, 256)
    smaller = np.asarray(Image.fromarray(pixels).resize((200, 200), Image.Resampling.LANCZOS))
    brighter = np.clip(pixels.astype(int) + 6, 0, 255).astype(np.uint8)
    assert distance(pixels, smaller) <= 4
    assert distance(pixels, brighter) <= 4


def test_different_images_have_different_hashes() -> None:
    assert min(distance(photo(0), photo(seed)) for seed in range(1, 20)) > 8


@pytest.mark.parametrize("shape", [(1, 1), (64, 64), (33, 70)])
def test_an_image_of_one_colour_is_blank_and_has_hash_zero(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), (10, 20, 200), dtype=np.uint8)
    portrait = compute_stats(pixels)
    assert (portrait.phash, portrait.is_blank, portrait.mean) == (0, True, (10.0, 20.0, 200.0))


def test_one_other_pixel_is_not_blank() -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[5, 6, 1] = 1
    assert not compute_stats(pixels).is_blank


def test_a_pattern_within_cells_is_not_blank() -> None:
    pixels = np.zeros((64, 64, 3), dtype=np.uint8)
    pixels[::2] = 255
    assert not compute_stats(pixels).is_blank


def test_the_mean_colour_is_exact() -> None:
    pixels = photo(2, 48, 50)
    np.testing.assert_allclose(compute_stats(pixels).mean, pixels.mean(axis=(0, 1)), rtol=1e-12)


def test_images_of_all_sizes_have_the_same_stats_together_as_alone() -> None:
    images = [photo(1), photo(2, 33, 70), np.zeros((1, 1, 3), dtype=np.uint8), photo(3, 128, 64)]
    together = compute_all([make_miniature(pixels) for pixels in images])
    assert together == [compute_stats(pixels) for pixels in images]
    assert compute_all([]) == []
