"""A small workspace in the state after dedupe, for every test here."""

from tests.helpers.kept_workspace import make_workspace

__all__ = ["make_workspace"]
