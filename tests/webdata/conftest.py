"""The fixtures of these tests; see `tests.helpers.webdata`."""

from tests.helpers.webdata import (
    expected,
    shards,
)

__all__ = [
    "expected",
    "shards",
]
