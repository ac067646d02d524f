"""Near duplicates are never in both splits, and a caption in train stays there forever."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dedupe import splits
from pipeline.dedupe.splits import draw_val

Numbers = npt.NDArray[np.uint64]


def random_captions(count: int, images: int, seed: int = 0) -> Numbers:
    rng = np.random.default_rng(seed)
    return rng.choice(rng.integers(0, 2**64, count, dtype=np.uint64), images)


def split_captions(
    captions: Numbers, groups: npt.NDArray[np.int64], *, val_fraction: float
) -> npt.NDArray[np.bool_]:
    """Whether each image is in val, given its caption and the group of linked images it is in."""
    numbers, caption = np.unique(captions, return_inverse=True)
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    links = np.stack([caption, caption[first[group]]], axis=1)
    return splits.split_captions(numbers, links, val_fraction=val_fraction)[caption]


def test_captions_without_links_keep_their_draw() -> None:
    captions = random_captions(20_000, 50_000)
    is_val = split_captions(captions, np.arange(50_000), val_fraction=0.01)
    np.testing.assert_array_equal(is_val, draw_val(captions, 0.01))
    assert 0.007 < is_val.mean() < 0.013


def test_no_caption_and_no_group_is_in_both_splits() -> None:
    rng = np.random.default_rng(1)
    captions = random_captions(1000, 5000)
    groups = rng.integers(0, 4500, 5000)
    is_val = split_captions(captions, groups, val_fraction=0.5)
    assert 0 < is_val.sum() < 5000
    for column in (captions, groups):
        _, number = np.unique(column, return_inverse=True)
        on_val = np.bincount(number, weights=is_val)
        assert set(np.unique(on_val / np.bincount(number))) <= {0.0, 1.0}


def test_train_captions_stay_in_train_when_data_is_added() -> None:
    rng = np.random.default_rng(2)
    captions = random_captions(2000, 6000)
    groups = rng.integers(0, 5000, 6000)
    before = split_captions(captions[:3000], groups[:3000], val_fraction=0.5)
    after = split_captions(captions, groups, val_fraction=0.5)[:3000]
    assert not (after & ~before).any()


def test_val_captions_stay_in_val_unless_linked_to_train() -> None:
    captions = random_captions(2000, 4000)
    groups = np.arange(4000)
    before = split_captions(captions[:2000], groups[:2000], val_fraction=0.1)
    after = split_captions(captions, groups, val_fraction=0.1)[:2000]
    np.testing.assert_array_equal(after, before)


def test_a_larger_fraction_only_adds_to_val() -> None:
    captions = random_captions(2000, 4000)
    small, large = (split_captions(captions, np.arange(4000), val_fraction=f) for f in (0.1, 0.2))
    assert not (small & ~large).any()


def test_the_ends_of_the_fraction_are_none_and_all() -> None:
    captions = random_captions(100, 100)
    assert not split_captions(captions, np.arange(100), val_fraction=0.0).any()
    assert split_captions(captions, np.arange(100), val_fraction=1.0).all()


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.01])
def test_a_caption_draws_val_below_the_very_fraction(fraction: float) -> None:
    edge = int(fraction * 2**64)
    numbers = np.array([0, edge - 1, edge, edge + 1, 2**64 - 1], dtype=np.uint64)
    assert draw_val(numbers, fraction).tolist() == [True, True, False, False, False]


def test_a_caption_of_number_0_draws_train_where_nothing_is_val() -> None:
    assert draw_val(np.zeros(1, dtype=np.uint64), 0.0).tolist() == [False]
