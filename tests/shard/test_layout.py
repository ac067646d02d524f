"""The assignment of samples: images of a caption are spread out, at any size and seed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.shard.layout import spread


def places(captions: int, images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The order of `captions` × `images` rows, and the caption of each row."""
    keys = np.array([f"key_{n:06d}" for n in range(captions * images)], dtype=np.bytes_)
    numbers = np.repeat(np.arange(captions, dtype=np.uint64), images)
    return spread(keys, numbers, seed), numbers


@pytest.mark.parametrize("seed", [0, 1, -5])
def test_the_32_images_of_a_caption_are_spread_out(seed: int) -> None:
    order, captions = places(100, 32, seed)
    assert sorted(order.tolist()) == list(range(3200))
    where = np.argsort(order)
    gaps = np.diff(np.sort(where.reshape(100, 32), axis=1), axis=1)
    assert gaps.min() >= 25  # 100 on the average; by chance alone the nearest would touch
    assert len(set(captions[order[:50]].tolist())) >= 40


def test_no_two_parts_hold_captions_in_the_same_order() -> None:
    order, captions = places(100, 32, 0)
    first, second = captions[order[:100]].tolist(), captions[order[100:200]].tolist()
    follows = {*itertools.pairwise(first)} & {*itertools.pairwise(second)}
    assert len(follows) < 20


def test_each_seed_yields_its_own_fixed_order() -> None:
    first, again, other = (places(20, 8, seed)[0].tolist() for seed in (3, 3, 4))
    assert first == again != other


def test_single_images_are_shuffled() -> None:
    order, _ = places(2000, 1, 0)
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1


def test_an_empty_set_has_an_order() -> None:
    assert spread(np.zeros(0, "S1"), np.zeros(0, np.uint64), 0).tolist() == []
