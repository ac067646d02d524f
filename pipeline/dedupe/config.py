"""Options of `pipeline dedupe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class DedupeConfig(StageConfig):
    """Which images are rejected or flagged, and how captions are split."""

    near_duplicates: Literal["off", "flag", "drop"] = option(
        "flag", "Near duplicates: don't look for them, flag their cluster, or keep one per cluster."
    )
    radius: int = option(
        4,
        "Maximum number of differing bits, of 64, between perceptual hashes of near duplicates.",
        low=0,
        high=8,
    )
    cut: Literal["drop", "keep"] = option(
        "drop", "Images whose file is cut off or lacks data: drop, or keep them flagged."
    )
    masked: Literal["keep", "drop"] = option(
        "keep", "Images whose upper part came from an image prompt: keep them flagged, or drop."
    )
    val_fraction: float = option(
        0.01, "Share of captions in the validation split.", low=0.0, high=1.0
    )
    max_pixels: int = option(
        40_000_000, "Images with more pixels (width × height) are never decoded.", low=1
    )
    workers: int | None = option(
        None,
        "Decoding processes; 0 decodes in the main process, unprotected from crashes. Default: one per core.",
        low=0,
        runtime=True,
    )
