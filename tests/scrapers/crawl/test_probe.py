"""Which images of a caption are asked for next, by all that can be known of two forms."""

from __future__ import annotations

import pytest

from scrapers.crawl.probe import NUM_PROBES, Seen, next_asks
from scrapers.fetch.verdict import Evidence

RANKS = (0, 1, 2, 3)


def asked(seen: Seen, *, forms: int = 2) -> list[tuple[int, int]]:
    return next_asks(forms, RANKS, seen)


def both(form: int, first: Evidence, second: Evidence) -> dict[tuple[int, int], Evidence]:
    return {(form, 0): first, (form, 1): second}


def test_rank_0_then_rank_1_of_the_first_form_is_probed() -> None:
    assert NUM_PROBES == 2
    assert asked({}) == [(0, 0)]
    assert asked({(0, 0): "absent"}) == [(0, 1)]
    assert asked({(0, 0): "unknown"}) == [(0, 1)]


@pytest.mark.parametrize("first", ["absent", "unknown"])
def test_one_image_that_exists_makes_its_form_the_one(first: Evidence) -> None:
    assert asked({(0, 0): "exists"}) == [(0, 1), (0, 2), (0, 3)]
    assert asked(both(0, first, "exists")) == [(0, 2), (0, 3)]
    assert asked({(0, 0): "exists", (0, 2): "absent"}) == [(0, 1), (0, 3)]


def test_what_is_known_of_all_images_ends_the_caption() -> None:
    assert asked({(0, 0): "exists", **{(0, rank): "absent" for rank in (1, 2, 3)}}) == []


def test_a_form_that_is_absent_gives_way_to_the_next() -> None:
    assert asked(both(0, "absent", "absent")) == [(1, 0)]
    assert asked(both(0, "absent", "absent") | {(1, 0): "exists"}) == [(1, 1), (1, 2), (1, 3)]
    assert asked(both(0, "absent", "absent") | both(1, "absent", "absent")) == []


@pytest.mark.parametrize("answers", [("unknown", "absent"), ("absent", "unknown")])
def test_the_first_form_that_is_uncertain_is_taken_if_no_other_exists(
    answers: tuple[Evidence, Evidence],
) -> None:
    first = both(0, *answers)
    assert asked(first) == [(1, 0)]
    assert asked(first | both(1, "absent", "absent")) == [(0, 2), (0, 3)]
    assert asked(first | both(1, "unknown", "unknown")) == [(0, 2), (0, 3)]
    assert asked(first | {(1, 0): "exists"}) == [(1, 1), (1, 2), (1, 3)]


def test_a_caption_of_one_rank_needs_one_probe() -> None:
    assert next_asks(2, (0,), {(0, 0): "absent"}) == [(1, 0)]
    assert next_asks(1, (0,), {(0, 0): "absent"}) == []
    assert next_asks(1, (), {}) == []
