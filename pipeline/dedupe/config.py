"""Options of `pipeline dedupe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.core.config import option
from pipeline.core.engine_config import EngineConfig


@dataclass(frozen=True, kw_only=True)
class DedupeConfig(EngineConfig):
    """Which images are rejected or flagged, and how captions are split."""

    near_duplicates: Literal["off", "flag", "drop"] = option(
        "flag",
        "Near duplicates: ignore them (off), label their cluster (flag), or keep one image per cluster "
        "(drop).",
    )
    radius: int = option(
        4,
        "Maximum Hamming distance between the 64-bit perceptual hashes of near duplicates.",
        low=0,
        high=8,
    )
    cut: Literal["drop", "keep"] = option(
        "drop", "Truncated images: reject them, or keep them flagged."
    )
    masked: Literal["keep", "drop"] = option(
        "keep",
        "Images whose upper part came from an image prompt: keep them flagged, or reject them.",
    )
    merge_captions: bool = option(
        False,
        "Give the captions of exact duplicates to the image that represents them.",
        omit_default=True,
    )
    val_fraction: float = option(
        0.01, "Fraction of captions in the validation split.", low=0.0, high=1.0
    )
    max_pixels: int = option(
        40_000_000, "Reject images with more pixels (width × height) without decoding them.", low=1
    )
    workers: int | None = option(
        None,
        "Decoding processes; 0 decodes in the main process, without crash isolation (default: one per "
        "core).",
        low=0,
        runtime=True,
    )
