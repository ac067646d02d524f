"""One crawl of `bench/scrape.py`, a process of its own: `scrape` over captions of the catalogue.

python bench/scrape_ours.py BASE_URL CAPTIONS WORKSPACE CONCURRENCY
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scrapers.scrape import scrape
from scrapers.source import CaptionPlan, Discovery, StartPage
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.plans import computed_plan

NUM_RANKS = 32


class Plans:
    """The first captions of the catalogue's complete lists (27,553 in all), 32 ranks each.

    All keys are computed, those of sections with hashed keys too: no page has to be asked.
    """

    def __init__(self, base: str, captions: int) -> None:
        self.base = base
        self.captions = captions

    def __iter__(self) -> Iterator[CaptionPlan]:
        whole = (s for s in load_catalogue().sections if s.options_complete)
        every = (
            computed_plan(section, forms, cdn=self.base)
            for section in (replace(s, key="base64") for s in whole)
            for forms in section.captions()
        )
        return islice(every, self.captions)


class PoolSource:
    """What `scrape` is given in place of the blog."""

    name = "pool"
    start_url: str | None = None

    def __init__(self, base: str, captions: int) -> None:
        self.plans = Plans(base, captions)

    def discover(self, page: StartPage | None) -> Discovery:
        """All captions."""
        del page
        captions = self.plans.captions
        return Discovery(
            plans=self.plans,
            num_captions=captions,
            num_urls=captions * NUM_RANKS,
            sections=(),
            differences=(),
        )


def urls(base: str, captions: int) -> Iterator[str]:
    """The same addresses for the other clients."""
    for plan in Plans(base, captions):
        yield from (plan.forms[0].url(rank) for rank in plan.ranks)


def main() -> None:
    """Crawl, and check that all came."""
    base, captions, folder, concurrency = sys.argv[1:]
    config = DalleBlogConfig(workspace=Path(folder), concurrency=int(concurrency))
    report = scrape(config, source=PoolSource(base, int(captions)))
    assert report.counts["done"] == int(captions) * NUM_RANKS, report
    print(report.outcome)


if __name__ == "__main__":
    main()
