"""The description of the stage `pipeline generate`."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.generate.config import GenerateConfig

STAGE = Stage(
    name="generate",
    help="Generate images from prompts.",
    positional=("prompts",),
    config=GenerateConfig,
    entry_point="pipeline.generate.run:run",
    contract="generated",
    writes=("generated/{name}",),
)
