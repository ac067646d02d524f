from tests.helpers.kept_workspace import make_workspace
from tests.helpers.shards import make_world, world
from tests.verify.small_pipeline import serve_blog, small, whole

__all__ = ["make_workspace", "make_world", "serve_blog", "small", "whole", "world"]
