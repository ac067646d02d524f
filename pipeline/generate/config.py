"""Options of `pipeline generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import WorkConfig, option

MAX_IMAGES = 1_000_000  # per command: each is a file and a record
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(WorkConfig):
    """Options of `generate.run`."""

    name: str = option("default", "Name of the output: generated/NAME in the workspace.")
    out: Path | None = option(
        None,
        "Write to this folder instead (default without a workspace: ./generated/NAME).",
        runtime=True,
    )
    on_change: Literal["new", "refuse", "restart"] = option(
        "new",
        "If the folder holds images of other prompts or options: write to NAME-2, NAME-3, … (new), stop "
        "(refuse), or replace them (restart).",
        runtime=True,
    )
    run: str = option(
        "dalle",
        "Run to sample from, finished or not: the latest checkpoint of runs/NAME.",
    )
    checkpoint: Path | None = option(
        None,
        "Sample from this checkpoint instead: a checkpoint folder, a dalle.pt, or a DeepSpeed folder.",
        runtime=True,
    )
    codec: str | None = option(
        None,
        "With a dalle.pt: the codec, named as for encode (default: the one stored in the file).",
        runtime=True,
    )
    vqgan_config: Path | None = option(None, "With a dalle.pt: YAML of its VQGAN.", runtime=True)
    vqgan_checkpoint: Path | None = option(
        None, "Checkpoint (.ckpt) for --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "With a dalle.pt: the tokenizer, as clip, clip:FILE, hf:FILE or yttm:FILE.",
        runtime=True,
    )
    redraw_layout: bool = option(
        False, "Sample a new layout for sparse attention if the checkpoint does not store one."
    )

    prompts: tuple[str, ...] = option((), "Prompts; separate several in one argument with `|`.")
    prompts_file: Path | None = option(
        None, "File with one prompt per line; added after the arguments.", runtime=True
    )
    gentxt: bool = option(
        False, "Let the model complete each prompt, or write one if none is given."
    )
    num_images: int = option(1, "Images per prompt.", low=1, high=MAX_IMAGES)

    top_k: float = option(
        0.9,
        "DALLE-pytorch's threshold: 0.9 samples from the top 10 % of the vocabulary, 0 from all of it.",
        low=0,
        high=1,
    )
    temperature: float = option(1.0, "Sampling temperature; lower is more conservative.", low=0.001)
    cond_scale: float = option(
        1.0,
        "Guidance scale; above 1 follows the prompt more closely, at twice the cost. Needs a model trained "
        "with --null-cond-prob.",
        low=0,
    )
    seed: int = option(0, "Random seed; the same seed gives the same images.", low=0, high=MAX_SEED)

    prime: Path | None = option(
        None, "Image whose upper part every sample starts with.", runtime=True
    )
    prime_rows: int | None = option(
        None,
        "Rows of codes to take from --prime (default: DALLE-pytorch's 7/16 of the codes).",
        low=1,
    )

    clip: str | None = option(
        None,
        "CLIP model that scores and ranks the images: a folder, or a name on the Hugging Face Hub. Needs "
        "the extra clip.",
        runtime=True,
    )
    best: int | None = option(
        None, "Keep this many images per prompt, ranked by CLIP.", low=1, high=MAX_IMAGES
    )
    of: int | None = option(
        None, "Images per prompt to choose --best from.", low=1, high=MAX_IMAGES
    )

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto",
        "Precision of the transformer; changing it changes the images. auto is bf16 on CUDA devices with "
        "native bf16, else fp32.",
    )
    batch_size: int | None = option(
        None,
        "Images per batch; halved if memory runs out (default: what fits on CUDA, at most 512; 32 on "
        "a CPU).",
        low=1,
        runtime=True,
    )
    compile: Literal["auto", "on", "off"] = option(
        "auto",
        "Use torch.compile; auto does so on CUDA when there are enough images.",
        runtime=True,
    )
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Device; auto uses CUDA if available.", runtime=True
    )
    threads: int = option(0, "CPU threads; 0 uses torch's default.", low=0, high=1024, runtime=True)

    @property
    def drawn(self) -> int:
        """Images drawn per prompt."""
        return self.of or self.num_images

    @property
    def kept(self) -> int:
        """Images kept per prompt."""
        return self.best or self.drawn
