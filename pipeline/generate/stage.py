"""The description of the stage `pipeline generate`."""

from __future__ import annotations

from pipeline.core.contracts import Contract, CountLaw
from pipeline.core.stage import Stage
from pipeline.generate.config import GenerateConfig

STAGE = Stage(
    name="generate",
    help="Generate images from prompts.",
    positional=("prompts",),
    config=GenerateConfig,
    entry_point="pipeline.generate.run:run",
    contract=Contract(
        name="generated",
        version=1,
        maker="generate",
        place="generated/*",
        own_files=r"\d{4,}-\d{2,}\.png|records\.jsonl|contact\.png|unfinished\.jsonl"
        r"|sketches/\d{4,}-\d{5,}\.npz",
        count_law=CountLaw("images", ("written", "outranked", "failed")),
        earlier_mark="unfinished.jsonl",
    ),
    writes=("generated/{name}",),
    writes_elsewhere="out",
    alone_with="checkpoint",
    runs_only_with=("prompts", "prompts_file"),
    numbered=True,
    chooses=("precision",),
    remembers=False,  # only `pipeline run` generates for the same prompts again
    repair="pipeline.verify.repair_trained:repair_generated",
)
