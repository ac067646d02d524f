"""A small workspace as dedupe would leave it, for every test here."""

from tests.kept_workspace import make_workspace, one_thread

__all__ = ["make_workspace", "one_thread"]
