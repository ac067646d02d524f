"""The options that sources on disk share. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.core.config import option
from pipeline.core.errors import ConfigError
from scrapers.config import ScrapeConfig


@dataclass(frozen=True, kw_only=True)
class LocalConfig(ScrapeConfig):
    """Where the captions are, and whether bytes are copied."""

    captions_from: str | None = option(None, "Where the captions are.")
    copy: bool = option(
        False,
        "Copy the images into the raw store. Without it, they are read in place and must not be moved.",
        runtime=True,
        remember=True,
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for options of sources on the web."""
        super().__post_init__()
        if self.via is not None:
            raise ConfigError(f"The source {self.source} reads files: it has no use for --via.")

    def extent(self) -> dict[str, Any]:
        """See `ScrapeConfig.extent`."""
        return {**super().extent(), "inputs": list(self.inputs)}
