"""A folder of images with captions beside them, in their names or inside them."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import option
from scrapers.local.config import LocalConfig
from scrapers.source import SourceKind


@dataclass(frozen=True, kw_only=True)
class FolderConfig(LocalConfig):
    """Which folder, and where its captions are."""

    inputs: tuple[str, ...] = option(
        (), "The folder of images.", metavar="PATH", runtime=True, remember=True
    )
    captions_from: str | None = option(
        None,
        "Where the captions are: txt (files beside the images; the default), json:FIELD, csv:FILE, filename, "
        "folder, png-title or xmp.",
    )


SOURCE = SourceKind(
    name="folder",
    help="A folder of images and their captions. Nothing is copied: the images stay where they are.",
    config=FolderConfig,
    opener="scrapers.sources.folder.source:FolderSource",
)
