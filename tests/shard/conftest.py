"""The fixtures of these tests; see `tests.helpers.shards`."""

from tests.helpers.shards import (
    make_world,
    world,
)

__all__ = [
    "make_world",
    "world",
]
