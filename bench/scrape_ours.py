"""One crawl of `bench/scrape.py`, a process of its own: `scrape` over captions that only differ in name.

python bench/scrape_ours.py BASE_URL CAPTIONS WORKSPACE CONCURRENCY
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from scrapers.config import ScrapeConfig
from scrapers.scrape import scrape
from scrapers.source import CaptionForm, CaptionPlan, Discovery

NUM_RANKS = 32


class Plans:
    """Captions of the blog's length, each with 32 ranks, their keys in base64."""

    def __init__(self, base: str, captions: int) -> None:
        self.base = base
        self.captions = captions

    def __iter__(self) -> Iterator[CaptionPlan]:
        for number in range(self.captions):
            caption = f"a professional high quality illustration of a giraffe number {number:06d}."
            key = base64.urlsafe_b64encode(caption.encode()).decode()
            template = f"{self.base}/samples/chimera/{key}_{{rank}}.png"
            form = CaptionForm(caption=caption, url_template=template)
            yield CaptionPlan(
                section="chimera", forms=(form,), ranks=tuple(range(NUM_RANKS)), masked=False
            )


class PoolSource:
    """What `scrape` is given in place of the blog."""

    name = "pool"
    start_url: str | None = None

    def __init__(self, base: str, captions: int) -> None:
        self.plans = Plans(base, captions)

    def discover(self, page: bytes | None) -> Discovery:
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
    config = ScrapeConfig(workspace=Path(folder), concurrency=int(concurrency))
    report = scrape(config, source=PoolSource(base, int(captions)))
    assert report.counts["done"] == int(captions) * NUM_RANKS, report
    print(report.outcome)


if __name__ == "__main__":
    main()
