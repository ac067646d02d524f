"""What `pipeline train-tokenizer` says of itself."""

from __future__ import annotations

from pipeline.core.stage import Stage
from pipeline.train_tokenizer.config import TrainTokenizerConfig

STAGE = Stage(
    name="train-tokenizer",
    help="Train a BPE text tokenizer on the captions.",
    config=TrainTokenizerConfig,
    entry_point="pipeline.train_tokenizer.run:run",
    contract="tokenizer",
    writes=("tokenizers/{name}",),
    reads=("dedupe",),
    on_change="A new tokenizer is trained; the one before stays under its name.",
)
