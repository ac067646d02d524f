"""Options of `pipeline train` and `pipeline export`; the model's are named as in DALLE-pytorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StageConfig):
    """Options of `train.run`. A step is one update of the weights."""

    name: str = option(
        "dalle",
        "Name of the run: runs/NAME in the workspace; auto follows the naming of the DALLE-models zoo, "
        "such as taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E.",
    )
    dataset: str | None = option(None, "Name of the dataset in the run's name and model card.")
    shards: str = option(
        "default", "Shards to train on: NAME of shards/NAME, or a URL (s3://…) to download."
    )
    resume_from: Path | None = option(
        None,
        "Start from the weights and optimizer moments of a checkpoint: one of a run, a dalle.pt, or a "
        "DeepSpeed folder. Its hyper-parameters override the options.",
        runtime=True,  # the manifest's inputs record its hash
        remember=True,
    )

    redraw_layout: bool = option(
        False, "Draw a new sparse attention layout if the checkpoint has none."
    )

    model: Literal["dalle", "dalle-pytorch"] = option(
        "dalle", "The built-in model, or the class of the installed package dalle-pytorch (slower)."
    )
    dim: int = option(512, "Width of the model.", low=1)
    depth: int = option(2, "Number of layers.", low=1)
    heads: int = option(8, "Attention heads per layer.", low=1)
    dim_head: int = option(64, "Width of an attention head.", low=1)
    text_seq_len: int | None = option(
        None, "Token ids per caption; must match the shards (default: theirs).", low=1
    )
    num_text_tokens: int | None = option(
        None,
        "Size of the text vocabulary, at least the tokenizer's (default: the tokenizer's).",
        low=1,
    )
    reversible: bool = option(
        False, "Reversible layers: activations of one layer in memory, somewhat slower."
    )
    attn_types: tuple[str, ...] = option(
        ("full",), "full, sparse, axial_row, axial_col, conv_like; layers cycle through them."
    )
    attn_dropout: float = option(0.0, "Dropout after attention.", low=0, high=1)
    ff_dropout: float = option(0.0, "Dropout inside the feed-forward layers.", low=0, high=1)
    loss_img_weight: float = option(
        7.0, "Weight of the image loss; the text loss has weight 1.", low=0
    )
    stable: bool = option(False, "Softmax and output that can't overflow in fp16.")
    sandwich_norm: bool = option(False, "Add a norm after each layer too.")
    shift_tokens: bool = option(False, "Mix in channels of the neighbors above and to the left.")
    rotary_emb: bool = option(False, "Rotary embeddings instead of learned positions.")
    shared_attn_ids: str | None = option(
        None, "Attention id of each layer, such as 0,1,0,1: layers with the same id share weights."
    )
    shared_ff_ids: str | None = option(None, "The same for feed-forward layers.")
    share_input_output_emb: bool = option(False, "Tie the input embedding to the output layer.")

    null_cond_prob: float = option(
        0.0,
        "Share of captions replaced by padding in training, such as 0.1; needed for --cond-scale of "
        "generate.",
        low=0,
        high=1,
    )

    steps: int | None = option(
        None, "Steps to train for (default: set by --epochs).", low=1, instead_of=("epochs",)
    )
    epochs: int = option(
        20,
        "Passes through the shards if --steps is not given, whatever the number of processes.",
        low=1,
        instead_of=("steps",),
    )
    batch_size: int = option(4, "Samples per forward pass and process.", low=1)
    ga_steps: int = option(1, "Gradient accumulation: forward passes per step.", low=1)
    optimizer: Literal["adamw", "adam"] = option(
        "adamw", "How weight decay is applied; without decay both equal the reference's Adam."
    )
    learning_rate: float = option(3e-4, "Peak learning rate.", low=0)
    warmup_steps: int = option(100, "Steps over which the learning rate rises to its peak.", low=0)
    warmup_type: Literal["linear", "log"] = option(
        "linear", "Shape of the warm-up; log is DeepSpeed's default."
    )
    lr_decay: Literal["cosine", "linear", "constant", "plateau"] = option(
        "cosine",
        "How the learning rate decays after warm-up. linear is DeepSpeed's WarmupDecayLR; plateau "
        "halves it after epochs without improvement, as the reference does. With plateau or constant, "
        "--steps, --epochs, --batch-size and --ga-steps may change when a run is resumed.",
    )
    weight_decay: float = option(0.0, "Weight decay, applied to matrices only.", low=0)
    beta2: float = option(0.999, "Adam's beta2.", low=0, high=1)
    clip_grad_norm: float = option(0.5, "Clip gradients to this norm; 0: never.", low=0)
    ema_decay: float = option(
        0.0,
        "Decay of a moving average of the weights, such as 0.999, used to sample and export; 0: none.",
        low=0,
        high=1,
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "bf16 is faster on hardware that supports it, and far slower elsewhere."
    )
    seed: int = option(0, "Seed for weights, sample order and dropout.", low=0)

    log_every: int = option(10, "Steps between lines of log.jsonl.", low=1)
    val_every: int = option(500, "Steps between validations, and one at the end; 0: never.", low=0)
    val_samples: int = option(1000, "Maximum number of validation samples to use.", low=1)
    save_every: int = option(
        1000, "Steps between checkpoints, and one at the end; 0: only at the end.", low=0
    )
    keep_n_checkpoints: int = option(2, "How many of the latest checkpoints to keep.", low=1)
    sample_every: int = option(
        0, "Steps between grids of sample images, if the codec is available; 0: never.", low=0
    )
    sample_prompts: tuple[str, ...] = option(
        (), "Prompts for the grids and the model card (default: from the validation split)."
    )

    on_change: Literal["refuse", "restart"] = option(
        "refuse",
        "If the run exists with other options or shards: stop with an error, or start over.",
        runtime=True,
    )
    skip_corrupt: bool = option(
        False,
        "Skip damaged or missing shards, and report how many samples are lost.",
        runtime=True,
    )
    tensorboard: bool = option(True, "Write event files to runs/NAME/tensorboard.", runtime=True)
    wandb: str | None = option(None, "Also log to this W&B project.", runtime=True)
    parallel: Literal["auto", "none", "ddp", "fsdp", "deepspeed"] = option(
        "auto",
        "How torchrun's processes share the work: ddp, or fsdp or deepspeed if the model does not fit.",
        runtime=True,
    )
    zero_stage: int | None = option(
        None,
        "What DeepSpeed shards: 0 nothing, 1 the moments, 2 also the gradients, 3 also the weights "
        "(default: 1).",
        low=0,
        high=3,
        runtime=True,
    )
    deepspeed_config: Path | None = option(
        None, "DeepSpeed JSON config with settings that these options don't cover.", runtime=True
    )
    compile: Literal["auto", "no", "yes"] = option(
        "auto",
        "Compile the model; auto compiles on CUDA, except with deepspeed.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Device to train on.", runtime=True)
    threads: int = option(0, "CPU threads; 0: torch's default.", low=0, runtime=True)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """Options of `pipeline export`: which checkpoint to write as a dalle.pt, and where."""

    run: str = option("dalle", "Name of the run; its last checkpoint is exported.", runtime=True)
    checkpoint: Path | None = option(
        None, "A checkpoint folder, instead of a run's last one.", runtime=True
    )
    codec_checkpoint: Path | None = option(
        None,
        "For a VQGAN: the .ckpt it was read from. Its loss.* tensors, which dalle-pytorch's own programs "
        "expect, are added to the file.",
        runtime=True,
    )
    out: Path = option(Path("dalle.pt"), "The file to write.", runtime=True)
    overwrite: bool = option(
        False, "Replace the file if it exists with different content.", runtime=True
    )
