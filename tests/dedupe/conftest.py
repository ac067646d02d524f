"""The fixtures of these tests; see `tests.helpers.dedupe`."""

from tests.helpers.dedupe import (
    crawl,
    planted_crawl,
    raw,
)

__all__ = [
    "crawl",
    "planted_crawl",
    "raw",
]
