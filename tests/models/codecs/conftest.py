"""The fixtures of these tests; see `tests.helpers.codecs`."""

from tests.helpers.codecs import (
    _one_thread,
)

__all__ = [
    "_one_thread",
]
