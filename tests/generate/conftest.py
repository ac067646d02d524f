"""The fixtures of these tests; see `tests.helpers.generate`."""

from tests.helpers.generate import (
    make_config,
    workspace,
)

__all__ = [
    "make_config",
    "workspace",
]
