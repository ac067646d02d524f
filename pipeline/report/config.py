"""Options of the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """What the page shows; it is written to `report.html` in the workspace."""

    wall_captions: int = option(12, "Captions in the grid of scraped images.", low=1, high=200)
    wall_ranks: int = option(8, "Images per caption in that grid, best first.", low=1, high=32)
    thumbnail: int = option(96, "Side of an image on the page, in pixels.", low=16, high=512)
