"""Options of `pipeline generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option

MAX_IMAGES = 1_000_000  # of a command: each is a file and a record
MAX_SEED = (1 << 63) - 1


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(StageConfig):
    """Options of `generate.run`."""

    name: str = option("default", "Name of the images: generated/NAME in the workspace.")
    out: Path | None = option(
        None,
        "Folder to write to instead (without a workspace: generated/NAME here).",
        runtime=True,
    )
    on_change: Literal["new", "refuse", "restart"] = option(
        "new",
        "Where that folder holds images of other prompts or options: new draws into the next free one "
        "beside it (NAME-2, NAME-3 …), refuse stops, restart replaces them.",
        runtime=True,
    )
    run: str = option(
        "dalle",
        "Name of the run whose last checkpoint draws, finished or not: runs/NAME.",
    )
    checkpoint: Path | None = option(
        None,
        "Another checkpoint: a folder of ours, a dalle.pt, or a folder of DeepSpeed.",
        runtime=True,
    )
    codec: str | None = option(
        None,
        "With a dalle.pt: the codec of its codes, by its name in codecs/, its folder, or a published "
        "name as for encode (default: the one that the file carries).",
        runtime=True,
    )
    vqgan_config: Path | None = option(
        None, "With a dalle.pt: YAML of the taming VQGAN of its codes.", runtime=True
    )
    vqgan_checkpoint: Path | None = option(
        None, "Checkpoint (.ckpt) that belongs to --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "With a dalle.pt: its tokenizer: clip, clip:FILE, hf:FILE or yttm:FILE.",
        runtime=True,
    )
    redraw_layout: bool = option(
        False, "Draw a new layout for sparse attention where the checkpoint carries none."
    )

    prompts: tuple[str, ...] = option((), "Prompts; `|` inside one separates several.")
    prompts_file: Path | None = option(
        None, "File with one prompt a line, drawn after those above.", runtime=True
    )
    gentxt: bool = option(
        False, "Let the model complete each prompt, or write one where none is given."
    )
    num_images: int = option(1, "Images of each prompt.", low=1, high=MAX_IMAGES)

    top_k: float = option(
        0.9,
        "DALLE-pytorch's threshold: 0.9 draws from the best tenth of the vocabulary, 0 from all of it.",
        low=0,
        high=1,
    )
    temperature: float = option(
        1.0, "Above 1 draws more daringly, towards 0 the likeliest.", low=0.001
    )
    cond_scale: float = option(
        1.0,
        "Above 1 follows the prompt more closely than the model would, at twice the time; "
        "for models that were trained with captions left out.",
        low=0,
    )
    seed: int = option(0, "Seed: the same one draws the same images.", low=0, high=MAX_SEED)

    prime: Path | None = option(
        None, "Image whose upper part every image begins with.", runtime=True
    )
    prime_rows: int | None = option(
        None, "Rows of codes to take from it (default: DALLE-pytorch's 7/16 of the codes).", low=1
    )

    clip: str | None = option(
        None,
        "CLIP that scores and ranks the images: a folder, or a name on the Hugging Face Hub.",
        runtime=True,
    )
    best: int | None = option(
        None, "Keep that many of each prompt, the best by CLIP.", low=1, high=MAX_IMAGES
    )
    of: int | None = option(
        None, "Images of each prompt to choose them from.", low=1, high=MAX_IMAGES
    )

    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "What the transformer computes in; other than fp32 draws other images."
    )
    batch_size: int = option(
        32, "Images drawn at once; halved where memory runs out.", low=1, runtime=True
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to compute.", runtime=True)
    threads: int = option(
        0, "Threads on the CPU; 0 leaves it to torch.", low=0, high=1024, runtime=True
    )

    @property
    def drawn(self) -> int:
        """Images that are drawn of each prompt."""
        return self.of or self.num_images

    @property
    def kept(self) -> int:
        """Images that are kept of each prompt."""
        return self.best or self.drawn
