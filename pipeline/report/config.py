"""Options of the report."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option
from pipeline.core.errors import ConfigError

_MOST_COMPARED = 6


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """What the page shows; it is written to `report.html` in the workspace."""

    wall_captions: int = option(
        48,
        "Captions to show with their images; times --wall-ranks if no caption has several images.",
        low=1,
        high=1000,
    )
    wall_ranks: int = option(8, "Images shown per caption, best rank first.", low=1, high=32)
    thumbnail: int = option(
        96, "Width and height of the square that a thumbnail fits in, in pixels.", low=16, high=512
    )
    run: str | None = option(
        None,
        "Show only this training run, even while it is still training (default: all runs).",
        remember=False,
        omit_default=True,
    )
    compare: tuple[str, ...] = option(
        (),
        "Compare with another run of this workspace, or with another workspace (a folder). Repeatable.",
        remember=False,
        omit_default=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for more comparisons than a plot can show."""
        if len(self.compare) > _MOST_COMPARED:
            raise ConfigError(
                f"--compare is given {len(self.compare)} times; a plot shows at most {_MOST_COMPARED} beside "
                "the run itself. Compare fewer."
            )
