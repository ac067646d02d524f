"""The description of the stage `pipeline train`."""

from __future__ import annotations

from pipeline.core.contracts import Contract
from pipeline.core.stage import Stage
from pipeline.train.config import TrainConfig

STAGE = Stage(
    name="train",
    help="Train a DALL·E on shards.",
    config=TrainConfig,
    entry_point="pipeline.train.run:run",
    contract=Contract(
        name="run",
        version=1,
        maker="train",
        place="runs/*",
        own_files=r"plan\.json|tokenizer\.json|log\.jsonl|README\.md|samples/step-\d{6,}\.png"
        r"|checkpoints/step-\d{6,}(\.partial)?/[a-z]+\.(json|safetensors)"
        r"|tensorboard/events\.out\.tfevents\.[^/]+|wandb/.+",
        name_levels=2,  # taming/12L_64HD_…
        earlier_mark="plan.json",
    ),
    writes=("runs/{name}",),
    reads=("shards/{shards}",),
    on_change="A run is resumed only if these may change; otherwise it is refused (--on-change).",
    chooses=("dataset", "precision", "batch_size"),
    check_files="pipeline.verify.checkpoints:check_run",
    repair="pipeline.verify.repair_trained:repair_run",
)
