"""Options of `pipeline train-tokenizer`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import WorkConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainTokenizerConfig(WorkConfig):
    """Options of `train_tokenizer.run`."""

    name: str = option("bpe", "Name of the tokenizer: tokenizers/NAME in the workspace.")
    vocab_size: int = option(
        2048, "Maximum vocabulary size, including padding and the 256 bytes.", low=257, high=65536
    )
