"""Options of `pipeline train` and `pipeline export`; the model's are named as in DALLE-pytorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class TrainConfig(StageConfig):
    """What `train.run` is told. A step is one change of the weights."""

    name: str = option(
        "dalle",
        "Name of the run: runs/NAME in the workspace; auto makes it as in the DALLE-models zoo, "
        "such as taming_transformer/12L_64HD_16H_544I_96T_dalleblog_5E.",
    )
    dataset: str | None = option(None, "The data's name in the run's name and card.")
    shards: str = option(
        "default", "The shards to train on: NAME of shards/NAME, or an address (s3://…) to bring."
    )
    resume_from: Path | None = option(
        None,
        "Begin with the weights and moments of a checkpoint: ours, a dalle.pt, or a folder of "
        "DeepSpeed. Its hyper-parameters win over the options.",
        runtime=True,  # the inputs of the manifest name it, by its hash
        remember=True,
    )

    redraw_layout: bool = option(
        False, "Draw a new layout for sparse attention where the checkpoint carries none."
    )

    model: Literal["dalle", "dalle-pytorch"] = option(
        "dalle", "Our model, or the class of the installed package dalle-pytorch (slower)."
    )
    dim: int = option(512, "Width of the model.", low=1)
    depth: int = option(2, "Layers.", low=1)
    heads: int = option(8, "Attention heads.", low=1)
    dim_head: int = option(64, "Width of a head.", low=1)
    text_seq_len: int | None = option(
        None, "Token ids of a caption; must be that of the shards (default: theirs).", low=1
    )
    num_text_tokens: int | None = option(
        None, "Text ids, at least the tokenizer's vocabulary (default: just that).", low=1
    )
    reversible: bool = option(False, "Reversible layers: memory of one layer, some more time.")
    attn_types: tuple[str, ...] = option(
        ("full",), "full, sparse, axial_row, axial_col, conv_like; layers take them in turn."
    )
    attn_dropout: float = option(0.0, "Dropout after attention.", low=0, high=1)
    ff_dropout: float = option(0.0, "Dropout inside the feed-forward layers.", low=0, high=1)
    loss_img_weight: float = option(7.0, "Weight of the image's loss; the text's is 1.", low=0)
    stable: bool = option(False, "Softmax and output that can't overflow in fp16.")
    sandwich_norm: bool = option(False, "Norms after the layers too.")
    shift_tokens: bool = option(False, "Mix in channels of the neighbours above and to the left.")
    rotary_emb: bool = option(False, "Rotary embeddings instead of learnt positions.")
    shared_attn_ids: str | None = option(
        None, "Ids of attention by layer, as 0,1,0,1: layers of one id share weights."
    )
    shared_ff_ids: str | None = option(None, "The same of feed-forward layers.")
    share_input_output_emb: bool = option(False, "Embed with the weights of the logits.")

    null_cond_prob: float = option(
        0.0,
        "Share of the captions replaced by padding in training, such as 0.1: what --cond-scale of "
        "generate guides away from.",
        low=0,
        high=1,
    )

    steps: int | None = option(
        None, "Steps to train for (default: what --epochs makes).", low=1, instead_of=("epochs",)
    )
    epochs: int = option(
        20,
        "Passes through the shards, where --steps is not given, whatever the processes.",
        low=1,
        instead_of=("steps",),
    )
    batch_size: int = option(4, "Samples of one forward pass of one process.", low=1)
    ga_steps: int = option(1, "Forward passes whose gradients make one step.", low=1)
    optimizer: Literal["adamw", "adam"] = option(
        "adamw", "How weight decay is done; without any, both are the reference's Adam."
    )
    learning_rate: float = option(3e-4, "Highest learning rate.", low=0)
    warmup_steps: int = option(100, "Steps in which the learning rate rises to it.", low=0)
    warmup_type: Literal["linear", "log"] = option(
        "linear", "How it rises; log is what DeepSpeed does unless told otherwise."
    )
    lr_decay: Literal["cosine", "linear", "constant", "plateau"] = option(
        "cosine",
        "How it falls to 0 afterwards. linear is DeepSpeed's WarmupDecayLR; plateau halves it after "
        "epochs without gain, as the reference does; with it and constant, --steps, --epochs, "
        "--batch-size and --ga-steps may change later.",
    )
    weight_decay: float = option(0.0, "Weight decay, of matrices only.", low=0)
    beta2: float = option(0.999, "Adam's second beta.", low=0, high=1)
    clip_grad_norm: float = option(0.5, "Longer gradients are cut to this; 0: never.", low=0)
    ema_decay: float = option(
        0.0,
        "Keep a running mean of the weights, such as 0.999, and use it; 0: none.",
        low=0,
        high=1,
    )
    precision: Literal["fp32", "bf16", "fp16"] = option(
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
    sample_every: int = option(
        0, "Steps between grids of pictures, where the codec is at hand; 0: never.", low=0
    )
    sample_prompts: tuple[str, ...] = option(
        (), "Captions to draw for the grids and the card (default: from the validation split)."
    )

    on_change: Literal["refuse", "restart"] = option(
        "refuse",
        "What to do where the run exists with other options or shards: stop, or begin it anew.",
        runtime=True,
    )
    skip_corrupt: bool = option(
        False,
        "Leave out shards that are damaged or missing, and say how many samples that costs.",
        runtime=True,
    )
    tensorboard: bool = option(True, "Write event files to runs/NAME/tensorboard.", runtime=True)
    wandb: str | None = option(None, "Log to this project of W&B, too.", runtime=True)
    parallel: Literal["auto", "none", "ddp", "fsdp", "deepspeed"] = option(
        "auto",
        "How the processes of torchrun share the work: ddp, or fsdp or deepspeed for what does not "
        "fit.",
        runtime=True,
    )
    zero_stage: int | None = option(
        None,
        "What DeepSpeed parts: 1 the moments, 2 the gradients too, 3 the weights too, 0 nothing "
        "(default: 1).",
        low=0,
        high=3,
        runtime=True,
    )
    deepspeed_config: Path | None = option(
        None, "JSON of DeepSpeed with what these options don't say.", runtime=True
    )
    compile: Literal["auto", "no", "yes"] = option(
        "auto",
        "Compile the model: auto does so on CUDA, where it pays, and not for deepspeed.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to compute.", runtime=True)
    threads: int = option(0, "Threads on the CPU; 0 leaves it to torch.", low=0, runtime=True)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """Which checkpoint to write as a dalle.pt, and where to."""

    run: str = option("dalle", "Name of the run: its last checkpoint is taken.", runtime=True)
    checkpoint: Path | None = option(
        None, "A checkpoint's folder, instead of a run's last one.", runtime=True
    )
    codec_checkpoint: Path | None = option(
        None,
        "With a VQGAN: the .ckpt that it was read from. What stock programs load beside the codec (loss.*) "
        "goes into the file, too.",
        runtime=True,
    )
    out: Path = option(Path("dalle.pt"), "The file to write.", runtime=True)
    overwrite: bool = option(
        False, "Replace the file where it is there already, with other bytes.", runtime=True
    )
