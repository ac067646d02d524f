"""What the records of scrapes say about how fresh a store is; these tests need no Airflow."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dalle_pipeline_airflow.records import days_since_fresh, measure

NOW = datetime(2026, 6, 20, 12, tzinfo=UTC)


def scrape(day: int, **counts: int) -> dict[str, Any]:
    return {"started": f"2026-06-{day:02d}T00:00:00Z", **counts}


@pytest.mark.parametrize(
    ("entries", "days"),
    [
        ([], None),
        ([scrape(10, stored=3)], 10.5),
        ([scrape(10, stored=3), scrape(15, unchanged=1), scrape(18, stored=0)], 5.5),
        ([scrape(10, stored=3), scrape(15, stored=1, unchanged=0)], 5.5),
        # Nothing was ever fetched: since the first scrape.
        ([scrape(10), scrape(15, stored=0, unchanged=0)], 10.5),
    ],
)
def test_a_store_is_as_fresh_as_the_last_scrape_that_fetched_or_confirmed_an_image(
    entries: list[dict[str, Any]], days: float | None
) -> None:
    assert days_since_fresh(entries, NOW) == days


@pytest.mark.parametrize(
    ("done", "share"),
    [({"done": 6}, 0.5), ({"done": 4}, 1.0), ({"done": 2}, None), ({}, None)],
)
def test_the_share_that_differs_is_of_the_images_that_were_there_before(
    done: dict[str, int], share: float | None
) -> None:
    entry = {"sections": ["a"], "counts": {"pending": 1, **done}, "stored": 2}
    differs = {} if share is None else {"different_share": share}
    earlier = [{"sections": ["a"], "stored": 2}]
    assert measure([entry], earlier) == {"good_share": 1.0, **differs}


def test_a_scrape_that_counted_nothing_has_no_images_to_compare_with() -> None:
    entry = {"sections": ["a"], "counts": {"pending": 1}, "stored": 0, "gone": 1}
    assert measure([entry], [{"sections": ["a"], "stored": 2}]) == {"good_share": 0.0}
