"""What `pipeline dedupe` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.dedupe.config import DedupeConfig

STAGE = Stage(
    name="dedupe",
    help="Inspect every image once; leave tables of kept, rejected and captions.",
    config=DedupeConfig,
    entry_point="pipeline.dedupe.run:run",
    contract="dedupe",
    writes=("dedupe",),
    reads=("raw",),
    on_change="The tables are made anew; images are not decoded again.",
)
