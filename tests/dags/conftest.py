"""The fixtures of these tests; see `tests.helpers.dags`."""

from tests.helpers.dags import (
    bag,
    metadata,
    place,
    source,
)

__all__ = [
    "bag",
    "metadata",
    "place",
    "source",
]
