"""The fixtures of these tests; see `tests.helpers.training`."""

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
