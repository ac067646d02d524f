"""The description of the stage `pipeline train-tokenizer`."""

from __future__ import annotations

from pipeline.core.contracts import Contract
from pipeline.core.stage import Stage
from pipeline.train_tokenizer.config import TrainTokenizerConfig

STAGE = Stage(
    name="train-tokenizer",
    help="Train a BPE text tokenizer on the captions.",
    config=TrainTokenizerConfig,
    entry_point="pipeline.train_tokenizer.run:run",
    contract=Contract(
        name="tokenizer",
        version=1,
        maker="train-tokenizer",
        place="tokenizers/*",
        own_files=r"tokenizer\.json",
        trained_once=True,
        shared=True,
    ),
    writes=("tokenizers/{name}",),
    reads=("dedupe",),
    on_change="A new tokenizer is trained; the old one keeps its name.",
    trained_for=("shard", "tokenizer"),
    numbered=True,
    repair="pipeline.verify.repair_trained:repair_tokenizer",
)
