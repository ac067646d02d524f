"""What `pipeline train` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.train.config import TrainConfig

STAGE = Stage(
    name="train",
    help="Train a DALL·E on shards.",
    config=TrainConfig,
    entry_point="pipeline.train.run:run",
    contract="run",
    writes=("runs/{name}",),
    reads=("shards/{shards}",),
    on_change="A run goes on only where these may change; else it is refused (--on-change).",
)
