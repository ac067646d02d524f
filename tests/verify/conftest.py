from tests.kept_workspace import make_workspace, one_thread
from tests.shard.conftest import make_world, world

__all__ = ["make_workspace", "make_world", "one_thread", "world"]
