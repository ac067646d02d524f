"""The options of the source dalleblog. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pipeline.core.config import option
from scrapers.config import ScrapeConfig, plain_url


@dataclass(frozen=True, kw_only=True)
class DalleBlogConfig(ScrapeConfig):
    """Where the page and its images are, and which captions to fetch."""

    INPUT_NAMES: ClassVar[Mapping[str, str]] = {"page": "page_file"}

    page_url: str | None = option(None, "URL of the page, if not the source's own.")
    page: Path | None = option(
        None,
        "Read this saved copy of the page instead of fetching it.",
        runtime=True,
        remember=True,
        instead_of=("no_page",),
    )
    no_page: bool = option(
        False, "Fetch no page; use the built-in catalogue only.", instead_of=("page",)
    )
    cdn_url: str | None = option(None, "Base URL of the images, if not the source's own.")
    sections: tuple[str, ...] = option(
        (), "Only these sections of the page (repeat the option for several)."
    )
    captions: Path | None = option(
        None, "Only the captions in this file, one per line.", runtime=True, remember=True
    )

    @property
    def given_page_url(self) -> str | None:
        """--page-url without a user and password."""
        return self.page_url and plain_url(self.page_url)

    @property
    def given_cdn_url(self) -> str | None:
        """--cdn-url, the folder above `samples/`, without a user and password."""
        return self.cdn_url and plain_url(self.cdn_url)

    def own_urls(self) -> dict[str, str]:
        """See `ScrapeConfig.own_urls`."""
        given = {"--page-url": self.page_url, "--cdn-url": self.cdn_url}
        return {**{flag: url for flag, url in given.items() if url}, **super().own_urls()}

    def saved_from(self) -> str | bool:
        """See `ScrapeConfig.saved_from`."""
        return False if self.page is None else self.page_url or True

    def extent(self) -> dict[str, Any]:
        """See `ScrapeConfig.extent`."""
        return {**super().extent(), "sections": list(self.sections)}
