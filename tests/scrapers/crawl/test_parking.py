"""Plans of hosts that have enough jobs: they come back as they were, in order, and take little memory."""

from __future__ import annotations

import random

from scrapers.crawl.parking import ParkedPlans
from scrapers.source import CaptionForm, CaptionPlan


def plan(number: int) -> CaptionPlan:
    return CaptionPlan(
        section="list",
        forms=(
            CaptionForm(
                caption=f"a photo of number {number}, \udce9 and more",
                url_template=f"https://h.example.com/{number:08d}.jpg",
            ),
        ),
        ranks=(0,),
        masked=False,
        captions=("another",) if number % 3 else (),
        rank=number if number % 2 else None,
        extra='{"width": 300}',
        key_prefix="",
        expected_hash="sha256:ab" if number % 5 else None,
    )


def test_plans_come_back_as_they_were_and_in_order() -> None:
    queue, rng, taken = ParkedPlans(), random.Random(0), []
    for number in range(1000):
        queue.append(plan(number))
        if rng.random() < 0.4:
            taken.append(queue.popleft())
    while queue:
        taken.append(queue.popleft())
    assert taken == [plan(number) for number in range(1000)]
    assert queue.size == 0


def test_a_parked_plan_takes_less_than_a_hundred_bytes() -> None:
    queue = ParkedPlans()
    for number in range(1024):
        queue.append(plan(number))
    assert 0 < queue.size < 100 * 1024
