"""What `pipeline encode` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.encode.config import EncodeConfig

STAGE = Stage(
    name="encode",
    help="Turn the kept images into codes, once.",
    config=EncodeConfig,
    entry_point="pipeline.encode.run:run",
    contract="codes",
    writes=("codes",),
    reads=("dedupe",),
    on_change="Codes that are there stay; images without codes of this kind are encoded.",
)
