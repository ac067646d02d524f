"""The fixtures of these tests; see `tests.helpers.training`."""

from collections.abc import Iterator

import pytest

from tests.helpers.ranks import close_ranks
from tests.helpers.training import (
    make_config,
    trained,
    workspace,
)

__all__ = [
    "make_config",
    "trained",
    "workspace",
]


@pytest.fixture(autouse=True, scope="module")
def end_of_ranks() -> Iterator[None]:
    """Processes that a file's tests started end with its last test."""
    yield
    close_ranks()
