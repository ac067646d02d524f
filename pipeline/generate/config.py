"""Options of `pipeline generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option

MAX_IMAGES = 1_000_000  # per command: each is a file and a record
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
        "If the folder holds images of other prompts or options: new writes to the next free folder beside "
        "it (NAME-2, NAME-3 …), refuse stops with an error, restart replaces them.",
        runtime=True,
    )
    run: str = option(
        "dalle",
        "Name of the run (runs/NAME) whose last checkpoint to use, finished or not.",
    )
    checkpoint: Path | None = option(
        None,
        "A checkpoint instead of a run: its folder, a dalle.pt, or a DeepSpeed folder.",
        runtime=True,
    )
    codec: str | None = option(
        None,
        "With a dalle.pt: its codec, as a name in codecs/, a folder, or a published name as for encode "
        "(default: the one in the file).",
        runtime=True,
    )
    vqgan_config: Path | None = option(
        None, "With a dalle.pt: YAML of its taming-transformers VQGAN.", runtime=True
    )
    vqgan_checkpoint: Path | None = option(
        None, "Checkpoint (.ckpt) that belongs to --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "With a dalle.pt: its tokenizer, as clip, clip:FILE, hf:FILE or yttm:FILE.",
        runtime=True,
    )
    redraw_layout: bool = option(
        False, "Draw a new sparse attention layout if the checkpoint has none."
    )

    prompts: tuple[str, ...] = option((), "Prompts; several can be separated by `|`.")
    prompts_file: Path | None = option(
        None, "File with one prompt per line, used after those above.", runtime=True
    )
    gentxt: bool = option(
        False, "Let the model complete each prompt, or write one if none is given."
    )
    num_images: int = option(1, "Images per prompt.", low=1, high=MAX_IMAGES)

    top_k: float = option(
        0.9,
        "DALLE-pytorch's threshold: 0.9 samples from the top tenth of the vocabulary, 0 from all of it.",
        low=0,
        high=1,
    )
    temperature: float = option(
        1.0,
        "Sampling temperature: above 1 more random, towards 0 the most likely codes.",
        low=0.001,
    )
    cond_scale: float = option(
        1.0,
        "Classifier-free guidance: above 1 follows the prompt more closely, at twice the time. For models "
        "trained with --null-cond-prob.",
        low=0,
    )
    seed: int = option(
        0, "Random seed: the same seed produces the same images.", low=0, high=MAX_SEED
    )

    prime: Path | None = option(
        None, "Image file whose upper part every generated image starts with.", runtime=True
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
        None, "Images to keep per prompt, the best by CLIP.", low=1, high=MAX_IMAGES
    )
    of: int | None = option(
        None, "Images to draw per prompt, from which --best are kept.", low=1, high=MAX_IMAGES
    )

    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "Precision of the transformer; images differ between precisions."
    )
    batch_size: int = option(
        32, "Images drawn at once; halved if memory runs out.", low=1, runtime=True
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Device to run on.", runtime=True)
    threads: int = option(0, "CPU threads; 0: torch's default.", low=0, high=1024, runtime=True)

    @property
    def drawn(self) -> int:
        """Images drawn per prompt."""
        return self.of or self.num_images

    @property
    def kept(self) -> int:
        """Images kept per prompt."""
        return self.best or self.drawn
