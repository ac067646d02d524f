"""The fixtures of these tests; see `tests.helpers.codecs`."""

from tests.helpers.codecs import _seeded

__all__ = ["_seeded"]
