"""The description of the stage `pipeline train`."""

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
    on_change="A run is resumed only if these may change; otherwise it is refused (--on-change).",
)
