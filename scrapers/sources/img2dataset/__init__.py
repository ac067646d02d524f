"""The output of img2dataset: its tars, folders of files, or Parquet, with what it could not fetch."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import option
from scrapers.local.config import LocalConfig
from scrapers.source import SourceKind


@dataclass(frozen=True, kw_only=True)
class Img2datasetConfig(LocalConfig):
    """Which output folder, and which of its columns holds the captions."""

    inputs: tuple[str, ...] = option(
        (), "The output folder of img2dataset.", metavar="PATH", runtime=True, remember=True
    )
    captions_from: str | None = option(
        None, "Column that holds the captions (default: caption, or else text)."
    )


SOURCE = SourceKind(
    name="img2dataset",
    help="What img2dataset has downloaded; --retry-failed fetches what it could not.",
    config=Img2datasetConfig,
    opener="scrapers.sources.img2dataset.source:Img2datasetSource",
)
