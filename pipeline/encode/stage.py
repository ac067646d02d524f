"""The description of the stage `pipeline encode`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.encode.config import EncodeConfig

STAGE = Stage(
    name="encode",
    help="Encode each kept image to codes, once.",
    config=EncodeConfig,
    entry_point="pipeline.encode.run:run",
    contract="codes",
    writes=("codes",),
    reads=("dedupe",),
    on_change="Existing codes are kept; images without codes of this kind are encoded.",
)
