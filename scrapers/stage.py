"""What `pipeline scrape` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from scrapers.config import ScrapeConfig

STAGE = Stage(
    name="scrape",
    help="Fetch a source's captions and images into the raw store.",
    positional=("source",),
    config=ScrapeConfig,
    entry_point="scrapers.scrape:scrape",
    contract="raw",
    writes=("raw",),
    on_change="What is in the raw store stays; what is new in the plan is fetched.",
)
