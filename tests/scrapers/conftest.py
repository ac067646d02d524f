"""The fixtures of these tests; see `tests.helpers.crawls`."""

from tests.helpers.crawls import (
    _no_proxies,
    _short_rests,
    quick,
    server,
)

__all__ = [
    "_no_proxies",
    "_short_rests",
    "quick",
    "server",
]
