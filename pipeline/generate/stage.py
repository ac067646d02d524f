"""What `pipeline generate` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.generate.config import GenerateConfig

STAGE = Stage(
    name="generate",
    help="Draw images from prompts.",
    positional=("prompts",),
    config=GenerateConfig,
    entry_point="pipeline.generate.run:run",
    contract="generated",
    writes=("generated/{name}",),
)
