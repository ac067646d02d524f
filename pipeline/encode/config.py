"""Options of `pipeline encode`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class EncodeConfig(StageConfig):
    """What `encode.run` is told."""

    codec: str = option(
        "small", "Name of a codec in the workspace (codecs/NAME), or the folder of one."
    )
    part_rows: int = option(
        10_000, "Images in a table of codes; a killed run repeats one table at most.", low=1
    )
    batch_size: int = option(64, "Images that the codec encodes at once.", low=1, runtime=True)
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "Where the codec runs; auto takes CUDA where it is.", runtime=True
    )
    workers: int | None = option(
        None, "Threads that decode images; one a core if not given.", low=1, runtime=True
    )
