"""Options of `pipeline train` and `pipeline export`; the model's are named as in DALLE-pytorch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.core.config import StageConfig, WorkConfig, option, section
from pipeline.core.errors import ConfigError
from pipeline.core.suggestions import name_choices
from pipeline.models.dalle.attention_types import ATTENTION_TYPES


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model's architecture, and what regularizes it."""

    kind: Literal["dalle", "dalle-pytorch"] = option(
        "dalle",
        "The built-in model, or the class of the installed package dalle-pytorch (slower).",
        name="model",
    )
    dim: int = option(512, "Width of the model.", low=1)
    depth: int = option(2, "Number of layers.", low=1)
    heads: int = option(8, "Attention heads.", low=1)
    dim_head: int = option(64, "Width of an attention head.", low=1)
    text_seq_len: int | None = option(
        None, "Token ids per caption; must match the shards (default: from the shards).", low=1
    )
    num_text_tokens: int | None = option(
        None,
        "Size of the text vocabulary, at least the tokenizer's (default: the tokenizer's).",
        low=1,
    )
    reversible: bool = option(
        False,
        "Use reversible layers: the activation memory of one layer, at the cost of some time.",
    )
    attn_types: tuple[str, ...] = option(
        ("full",),
        "Attention types, cycled through the layers: full, sparse, axial_row, axial_col, conv_like.",
    )
    attn_dropout: float = option(0.0, "Dropout after attention.", low=0, high=1)
    ff_dropout: float = option(0.0, "Dropout in the feed-forward layers.", low=0, high=1)
    loss_img_weight: float = option(
        7.0, "Weight of the image loss; the text loss has weight 1.", low=0
    )
    shift_tokens: bool = option(
        False, "Shift channels in from the neighbours above and to the left."
    )
    rotary_emb: bool = option(False, "Use rotary instead of learned position embeddings.")
    stable: bool = option(False, "Use a softmax and output layer that can't overflow in fp16.")
    sandwich_norm: bool = option(False, "Also normalize after each layer.")
    shared_attn_ids: str | None = option(
        None, "Weight sharing between attention layers, an id per layer, such as 0,1,0,1."
    )
    shared_ff_ids: str | None = option(
        None, "Weight sharing between feed-forward layers, as for --shared-attn-ids."
    )
    share_input_output_emb: bool = option(False, "Tie the input embeddings to the output layer.")
    null_cond_prob: float = option(
        0.0,
        "Fraction of captions replaced by padding during training, such as 0.1; needed for generate "
        "--cond-scale.",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an unknown attention type."""
        types = split_words(self.attn_types)
        unknown = [kind for kind in types if kind not in ATTENTION_TYPES]
        if unknown or not types:
            found = f"{unknown[0]!r} is not an attention type" if unknown else "it is empty"
            choices = name_choices(unknown[0] if unknown else "", ATTENTION_TYPES)
            raise ConfigError(f"--attn-types: {found}. {choices}")


def split_words(values: Iterable[str]) -> tuple[str, ...]:
    """The words of values that may each hold several, separated by commas."""
    return tuple(word.strip() for value in values for word in value.split(",") if word.strip())


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How long to train, the samples of a step, and the learning rate's course."""

    steps: int | None = option(
        None, "Training steps (default: from --epochs).", low=1, instead_of=("epochs",)
    )
    epochs: int = option(
        20,
        "Passes over the shards, if --steps is not given.",
        low=1,
        instead_of=("steps",),
    )
    batch: str = option(
        "4",
        "Samples per forward pass per process. auto doubles it as long as that makes training at least 3 % "
        "faster and fits in memory; the run keeps the size found.",
        name="batch_size",
    )
    ga_steps: int = option(
        1,
        "Gradient accumulation: forward passes per step.",
        low=1,
        instead_of=("global_batch_size",),
    )
    global_batch_size: int | None = option(
        None,
        "Samples per step over all processes; sets --ga-steps.",
        low=1,
        instead_of=("ga_steps",),
        omit_default=True,
    )
    warmup_steps: int = option(100, "Steps over which the learning rate warms up.", low=0)
    warmup_type: Literal["linear", "log"] = option(
        "linear", "Shape of the warm-up; log is DeepSpeed's default."
    )
    lr_decay: Literal["cosine", "linear", "constant", "plateau"] = option(
        "cosine",
        "Learning-rate schedule after the warm-up. linear is DeepSpeed's WarmupDecayLR; plateau halves it "
        "after epochs without improvement, as DALLE-pytorch does. With constant and plateau, --steps, "
        "--epochs, --batch-size and --ga-steps may change later.",
    )

    def __post_init__(self) -> None:
        """Turn the batch size into a number; raises ConfigError if it is neither that nor `auto`."""
        given = str(self.batch)
        if given == "auto":
            return
        if not re.fullmatch("[0-9]{1,9}", given) or not int(given):
            raise ConfigError(f"--batch-size is {given!r}, expected a number from 1, or auto.")
        object.__setattr__(self, "batch", int(given))

    @property
    def batch_size(self) -> int:
        """Samples per forward pass per process."""
        size: Any = self.batch
        assert isinstance(size, int), "auto is settled before training"
        return size


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How gradients change the weights."""

    kind: Literal["adamw", "adam"] = option(
        "adamw", "AdamW or Adam; the same if --weight-decay is 0.", name="optimizer"
    )
    learning_rate: float = option(3e-4, "Peak learning rate.", low=0)
    weight_decay: float = option(0.0, "Weight decay, applied to matrices only.", low=0)
    beta2: float = option(0.999, "Adam's second beta.", low=0, high=1)
    clip_grad_norm: float = option(0.5, "Maximum gradient norm; 0 disables clipping.", low=0)
    ema_decay: float = option(
        0.0,
        "Decay of an exponential moving average of the weights, such as 0.999; sampling, validation and "
        "export then use the average; 0 disables it.",
        low=0,
        high=1,
    )


@dataclass(frozen=True, kw_only=True)
class LoggingOptions:
    """What is logged, validated, sampled and kept. Training doesn't depend on it, so it may change later."""

    log_every: int = option(10, "Steps between lines of log.jsonl.", low=1)
    val_every: int = option(
        500, "Steps between validations, plus one at the end; 0 disables validation.", low=0
    )
    val_samples: int = option(1000, "Maximum validation samples.", low=1)
    save_every: int = option(
        1000, "Steps between checkpoints, plus one at the end; 0 saves only at the end.", low=0
    )
    keep_n_checkpoints: int = option(2, "Number of most recent checkpoints to keep.", low=1)
    sample_every: int = option(
        0, "Steps between sample grids, if the codec is available; 0 disables them.", low=0
    )
    sample_prompts: tuple[str, ...] = option(
        (),
        "Captions for sample grids and the model card (default: from the validation split). Repeatable.",
    )
    tensorboard: bool = option(
        True, "Write TensorBoard event files to runs/NAME/tensorboard.", runtime=True
    )
    wandb: str | None = option(
        None, "Also log to this Weights & Biases project (install the package wandb).", runtime=True
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an empty sample prompt."""
        if not all(prompt.strip() for prompt in self.sample_prompts):
            raise ConfigError("--sample-prompts is empty. Give a caption, or leave it out.")


@dataclass(frozen=True, kw_only=True)
class ParallelOptions:
    """How the processes share the work, and what they compute on."""

    kind: Literal["auto", "none", "ddp", "fsdp", "deepspeed"] = option(
        "auto",
        "How the processes of torchrun share the work: ddp, or fsdp or deepspeed (extra deepspeed) if the "
        "model does not fit one device.",
        runtime=True,
        name="parallel",
    )
    zero_stage: int | None = option(
        None,
        "What DeepSpeed shards: nothing (0), optimizer state (1), gradients too (2), weights too (3) "
        "(default: 1).",
        low=0,
        high=3,
        runtime=True,
    )
    deepspeed_config: Path | None = option(
        None, "DeepSpeed JSON for everything that has no option here.", runtime=True
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "bf16 is faster on hardware that supports it, and far slower elsewhere; auto is bf16 on CUDA devices "
        "with native bf16, else fp32. On CUDA, fp32 uses TF32.",
    )
    compile: Literal["auto", "on", "off", "graphs"] = option(
        "auto",
        "Use torch.compile; auto does so on CUDA, except with deepspeed. If the compiler fails, training "
        "continues without it. graphs also launches each step as a CUDA graph, for small batches (one "
        "process).",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Device; auto uses CUDA if available.", runtime=True
    )
    threads: int = option(0, "CPU threads; 0 uses torch's default.", low=0, high=1024, runtime=True)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(WorkConfig):
    """Options of `train.run`. A step is one update of the weights."""

    name: str = option(
        "dalle",
        "Name of the run: runs/NAME in the workspace. auto derives it as in the DALLE-models zoo, such as "
        "taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E.",
    )
    dataset: str | None = option(None, "Name of the dataset in the run's name and model card.")
    shards: str = option(
        "default",
        "Shards to train on: NAME of shards/NAME, or the URL of published shards, such as "
        "s3://BUCKET/PREFIX.",
    )
    resume_from: Path | None = option(
        None,
        "Start from the weights and optimizer state of a checkpoint: a checkpoint folder, a dalle.pt, or a "
        "DeepSpeed folder. Its hyper-parameters take precedence over the options.",
        runtime=True,  # the inputs of the manifest name it, by its hash
        remember=True,
    )
    redraw_layout: bool = option(
        False, "Sample a new layout for sparse attention if the checkpoint does not store one."
    )
    seed: int = option(0, "Seed of initialization, sample order and dropout.", low=0)
    on_change: Literal["refuse", "restart"] = option(
        "refuse",
        "If the run exists with other options or shards: stop (refuse), or start over (restart).",
        runtime=True,
    )
    skip_corrupt: bool = option(
        False,
        "Leave out damaged or missing shards, and report how many samples are lost.",
        runtime=True,
    )

    model: ModelOptions = section(ModelOptions, "Model")
    schedule: ScheduleOptions = section(ScheduleOptions, "Schedule")
    optimizer: OptimizerOptions = section(OptimizerOptions, "Optimizer")
    logging: LoggingOptions = section(LoggingOptions, "Logging")
    parallel: ParallelOptions = section(ParallelOptions, "Parallelism and devices")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """Options of `pipeline export`: which checkpoint to write as a dalle.pt, and where."""

    run: str = option("dalle", "Run to export: its latest checkpoint.", runtime=True)
    checkpoint: Path | None = option(None, "Export this checkpoint folder instead.", runtime=True)
    codec_checkpoint: Path | None = option(
        None,
        "With a VQGAN: its original .ckpt. The keys that DALLE-pytorch's programs expect beside the codec "
        "(loss.*) are copied into the file.",
        runtime=True,
    )
    out: Path = option(Path("dalle.pt"), "File to write.", runtime=True)
    overwrite: bool = option(
        False, "Replace an existing file with different contents.", runtime=True
    )
