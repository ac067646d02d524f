from tests.helpers.kept_workspace import make_workspace, one_thread
from tests.helpers.shards import make_world, world
from tests.verify.small_pipeline import serve_blog, small, whole

__all__ = [
    "make_workspace",
    "make_world",
    "one_thread",
    "serve_blog",
    "small",
    "whole",
    "world",
]
