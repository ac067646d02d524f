"""WebDataset tars: images and captions by the library's own rules."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import option
from scrapers.local.config import LocalConfig
from scrapers.source import SourceKind


@dataclass(frozen=True, kw_only=True)
class TarsConfig(LocalConfig):
    """Which tars, and where their captions are."""

    inputs: tuple[str, ...] = option(
        (),
        "Tars, folders of tars, or URLs; braces expand: {00000..00099}.tar.",
        metavar="PATH",
        runtime=True,
        remember=True,
    )
    captions_from: str | None = option(
        None,
        "Where the captions are: json:FIELD, or the suffix of a member (default: txt, caption, text, cap, or "
        "the caption in json).",
    )
    allow_pipe: bool = option(
        False, "Run inputs that begin with pipe: as shell commands that write a tar.", runtime=True
    )


SOURCE = SourceKind(
    name="tars",
    help="WebDataset tars, local or remote. Nothing is copied: the tars stay where they are.",
    config=TarsConfig,
    opener="scrapers.sources.tars.source:TarsSource",
)
