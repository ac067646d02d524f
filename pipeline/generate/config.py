"""Options of `pipeline generate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(StageConfig):
    """What `generate.run` is told."""

    name: str = option("default", "Name of the pictures: generated/NAME in the workspace.")
    run: str = option("dalle", "Name of the run whose last checkpoint draws: runs/NAME.")
    checkpoint: Path | None = option(
        None, "Folder of another checkpoint, also of a run that has not finished.", runtime=True
    )
    prompts: tuple[str, ...] = option((), "Prompts; `|` inside one separates several.")
    prompts_file: Path | None = option(
        None, "File with one prompt a line, drawn after those above.", runtime=True
    )
    num_images: int = option(1, "Pictures of each prompt.", low=1)
    top_k: float = option(
        0.9,
        "DALLE-pytorch's threshold: 0.9 draws from the best tenth of the vocabulary, 0 from all of it.",
        low=0,
        high=1,
    )
    temperature: float = option(
        1.0, "Above 1 draws more daringly, towards 0 the likeliest.", low=0.001
    )
    seed: int = option(0, "Seed: the same one draws the same pictures.")
    batch_size: int = option(32, "Pictures drawn at once.", low=1, runtime=True)
    device: Literal["auto", "cpu", "cuda"] = option("auto", "Where to compute.", runtime=True)
    threads: int = option(0, "Threads on the CPU; 0 leaves it to torch.", low=0, runtime=True)
