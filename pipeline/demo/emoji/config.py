"""Options of `pipeline emoji`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class EmojiConfig(StageConfig):
    """Where the images and their captions come from."""

    source: str = option("emoji", "Name of the default workspace: data/NAME.", runtime=True)
    font: Path | None = option(
        None, "Noto Color Emoji with bitmaps (default: the installed NotoColorEmoji.ttf)."
    )
    names: Path | None = option(
        None, "Unicode's list of emoji and their names (default: the installed emoji-test.txt)."
    )
