"""Options of the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """What the page shows; it is written to `report.html` in the workspace."""

    wall_captions: int = option(12, "Captions shown with their scraped images.", low=1, high=200)
    wall_ranks: int = option(8, "Images shown per caption, best rank first.", low=1, high=32)
    thumbnail: int = option(96, "Thumbnail width and height in pixels.", low=16, high=512)
