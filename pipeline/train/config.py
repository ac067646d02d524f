"""Options of `pipeline train`; the model's are named as in DALLE-pytorch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StageConfig):
    """What `train.run` is told. A step is one change of the weights."""

    name: str = option("dalle", "Name of the run: runs/NAME in the workspace.")
    shards: str = option("default", "Name of the shards to train on: shards/NAME.")

    dim: int = option(512, "Width of the model.", low=1)
    depth: int = option(2, "Layers.", low=1)
    heads: int = option(8, "Attention heads.", low=1)
    dim_head: int = option(64, "Width of a head.", low=1)
    attn_dropout: float = option(0.0, "Dropout after attention.", low=0, high=1)
    ff_dropout: float = option(0.0, "Dropout inside the feed-forward layers.", low=0, high=1)
    loss_img_weight: float = option(7.0, "Weight of the image's loss; the text's is 1.", low=0)

    steps: int | None = option(None, "Steps to train for (default: what --epochs makes).", low=1)
    epochs: int = option(20, "Passes through the shards, where --steps is not given.", low=1)
    batch_size: int = option(4, "Samples of one forward pass.", low=1)
    ga_steps: int = option(1, "Forward passes whose gradients make one step.", low=1)
    learning_rate: float = option(3e-4, "Highest learning rate.", low=0)
    warmup_steps: int = option(100, "Steps in which the learning rate rises to it.", low=0)
    lr_decay: Literal["cosine", "linear", "constant"] = option(
        "cosine", "How the learning rate falls to 0 afterwards; constant lets --steps grow later."
    )
    weight_decay: float = option(0.0, "AdamW's weight decay, of matrices only.", low=0)
    beta2: float = option(0.999, "AdamW's second beta.", low=0, high=1)
    clip_grad_norm: float = option(0.5, "Longest gradient that is not shortened.", low=0)
    precision: Literal["fp32", "bf16"] = option(
        "fp32", "bf16 pays on processors that have it, and is far slower on those that don't."
    )
    seed: int = option(0, "Seed of weights, order and dropout.", low=0)

    log_every: int = option(10, "Steps between lines of log.jsonl.", low=1)
    val_every: int = option(500, "Steps between validations; also at the end; 0 for never.", low=0)
    val_samples: int = option(1000, "Samples of the validation split to use at most.", low=1)
    save_every: int = option(
        1000, "Steps between checkpoints; also at the end; 0: there only.", low=0
    )
    keep_n_checkpoints: int = option(2, "Checkpoints that are kept, the last ones.", low=1)

    on_change: Literal["refuse", "restart"] = option(
        "refuse",
        "What to do where the run exists with other options or shards: stop, or begin it anew.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to compute.", runtime=True)
    threads: int = option(0, "Threads on the CPU; 0 leaves it to torch.", low=0, runtime=True)
