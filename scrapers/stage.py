"""The facts of `pipeline scrape`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from scrapers.options import all_options, build_config

STAGE = Stage(
    name="scrape",
    help="Fetch a source's captions and images into the raw store.",
    positional=("source", "inputs"),
    config=all_options(),
    builder=build_config,
    entry_point="scrapers.scrape:scrape",
    contract="raw",
    writes=("raw",),
    on_change="The images in the raw store are kept; those that are new in the plan are fetched.",
)
