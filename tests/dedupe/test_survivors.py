"""Which of several copies stays: the best rank, then the most pixels, then the smallest key."""

from __future__ import annotations

import pytest

from pipeline.dedupe.rows import KEPT_CODE, reason_code
from tests.helpers.dedupe import RawStore, dedupe, encode, kept, photo, photo_png, rejected


@pytest.mark.parametrize(
    ("ranks", "stays"),
    [
        ({"a": 3, "b": 1, "c": 2}, "b"),
        ({"a": 1, "b": 1, "c": 1}, "a"),
        ({"a": None, "b": 5, "c": 9}, "b"),
    ],
)
def test_of_the_same_bytes_the_best_rank_stays_then_the_smallest_key(
    ranks: dict[str, int | None], stays: str, raw: RawStore
) -> None:
    for key, rank in ranks.items():
        raw.add(key, photo_png(1), "x", rank=rank)
    workspace = raw.write()
    dedupe(workspace)
    assert set(kept(workspace)) == {stays}
    assert {row["stands_for"] for row in rejected(workspace).values()} == {stays}
    assert {row["reason"] for row in rejected(workspace).values()} == {"duplicate_bytes"}


def test_rank_counts_before_pixels_and_pixels_before_the_key(raw: RawStore) -> None:
    """Near copies of other sizes: who stays leads the cluster."""
    sizes = {"a": (64, 5), "b": (128, 5), "c": (256, 7)}
    for key, (side, rank) in sizes.items():
        raw.add(key, encode(photo(1, side, side)), "x", rank=rank)
    workspace = raw.write()
    dedupe(workspace, radius=8)
    assert {row["cluster"] for row in kept(workspace).values()} == {"b"}


def test_copies_are_of_bytes_or_of_pixels(raw: RawStore) -> None:
    raw.add("a", photo_png(1), "x", rank=0)
    raw.add("b", photo_png(1), "x", rank=1)
    raw.add("c", encode(photo(1), compress_level=1), "x", rank=2)
    raw.add("d", encode(photo(1), compress_level=1), "x", rank=3)
    workspace = raw.write()
    dedupe(workspace)
    found = {key: (row["reason"], row["stands_for"]) for key, row in rejected(workspace).items()}
    assert found == {
        "b": ("duplicate_bytes", "a"),
        "c": ("duplicate_pixels", "a"),
        "d": ("duplicate_pixels", "a"),
    }


def test_a_reason_has_a_code_of_its_own() -> None:
    assert reason_code("duplicate_bytes") not in (KEPT_CODE, reason_code("duplicate_pixels"))
