"""Options of `pipeline dedupe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class DedupeConfig(StageConfig):
    """What is rejected, what is flagged, and how captions are split."""

    near_duplicates: Literal["off", "flag", "drop"] = option(
        "flag", "Look-alikes: don't look for them, name their cluster, or keep one of each cluster."
    )
    radius: int = option(
        4, "Bits of 64 in which the perceptual hashes of look-alikes differ at most.", low=0, high=8
    )
    cut: Literal["drop", "keep"] = option(
        "drop", "Images of which a part is missing in the file: drop, or keep them flagged."
    )
    masked: Literal["keep", "drop"] = option(
        "keep", "Images whose upper part was given by an image prompt: keep them flagged, or drop."
    )
    val_fraction: float = option(
        0.01, "Share of captions in the validation split.", low=0.0, high=1.0
    )
    max_pixels: int = option(
        40_000_000, "Images with more pixels (width × height) are never decoded.", low=1
    )
    workers: int | None = option(
        None,
        "Processes that decode; 0 works in this one, unprotected from crashes. Default: one a core.",
        low=0,
        runtime=True,
    )
