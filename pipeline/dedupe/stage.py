"""Declaration of the stage `dedupe`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.dedupe.config import DedupeConfig

STAGE = Stage(
    name="dedupe",
    help="Inspect every image once; write tables of kept and rejected images and of captions.",
    config=DedupeConfig,
    entry_point="pipeline.dedupe.run:run",
    contract="dedupe",
    writes=("dedupe",),
    reads=("raw",),
    on_change="The tables are rewritten; images are not decoded again.",
)
