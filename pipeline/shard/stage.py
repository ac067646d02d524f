"""Declaration of the stage `shard`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.shard.config import ShardConfig

STAGE = Stage(
    name="shard",
    help="Join captions, token ids and codes into WebDataset shards.",
    config=ShardConfig,
    entry_point="pipeline.shard.run:run",
    contract="shards",
    writes=("shards/{name}",),
    reads=("dedupe", "codes"),
    on_change="The shards of this name are rewritten.",
)
