"""The DALL·E blog post of January 2021 as a source: page and catalogue → captions → URLs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipeline.core.errors import ConfigError, ContractError
from pipeline.core.parsing import read_small_file
from scrapers.config import ScrapeConfig
from scrapers.fetch.page_urls import TakenUrl, resolve_url, take_credentials, without_credentials
from scrapers.source import (
    CaptionPlan,
    Discovery,
    SectionSummary,
    StartPage,
)
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.choosing import choose_captions, choose_sections
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.merge import Merged, MergedSection, merge
from scrapers.sources.dalleblog.page import PageContent, read_page
from scrapers.sources.dalleblog.plans import Plans, count_plans
from scrapers.sources.saved_page import MAX_ARCHIVE_BYTES, open_page


class DalleBlogSource:
    """The blog post, from its page, from a saved file, or from the built-in catalogue alone."""

    name = "dalleblog"

    def __init__(self, config: ScrapeConfig) -> None:
        """Raises ConfigError for options that make no sense."""
        assert isinstance(config, DalleBlogConfig)
        _check_limit(config.limit)
        self.config = config
        self.catalogue = load_catalogue()
        written = config.given_page_url or self.catalogue.page
        page_url, of_page = _web_url("--page-url", written)
        cdn, of_cdn = (
            _web_url("--cdn-url", given) if (given := config.given_cdn_url) else (None, {})
        )
        self.page_url = page_url
        self.cdn = cdn
        self.credentials = {**of_page, **of_cdn}
        fetches = not config.no_page and config.page is None
        self.start_url: str | None = resolve_url(written, "") if fetches else None

    def discover(self, page: StartPage | None) -> Discovery:
        """The chosen captions of page and catalogue. See `scrapers.source.Source`."""
        content = self._read(page)
        merged = merge(self.catalogue, content, cdn=self.cdn)
        sections = choose_sections(merged.sections, self.config.sections)
        plans: Iterable[CaptionPlan]
        if self.config.captions is not None:
            chosen = choose_captions(sections, self.config.captions, cdn=merged.cdn)
            plans = chosen[: self.config.limit]
            counts = count_plans(plans)
            sections = tuple(section for section in sections if section.name in counts)
        else:
            plans = Plans(sections=sections, cdn=merged.cdn, limit=self.config.limit)
            counts = plans.counts()
            sections = tuple(section for section in sections if section.name in counts)
        found = merged.differences_of([section.name for section in sections])
        return Discovery(
            plans=plans,
            num_captions=sum(captions for captions, _ in counts.values()),
            num_urls=sum(urls for _, urls in counts.values()),
            sections=tuple(_summary(s, counts[s.name][0]) for s in sections),
            differences=tuple(difference.text for difference in found),
            warnings=tuple(difference.text for difference in found if difference.is_loss),
            page_sections=_page_sections(merged) if content is not None else (),
            page_meta=content.meta if content is not None else (),
            page_name=None if self.config.page is None else str(self.config.page),
            credentials={
                **(content.credentials if content is not None else {}),
                **self.credentials,
            },
        )

    def _read(self, page: StartPage | None) -> PageContent | None:
        if self.config.no_page:
            return None
        file = self.config.page if page is None else None
        if file is not None:
            saved = StartPage(body=_read_file(file), url=self.page_url)
            page = open_page(saved, name=f"The page {file}", is_saved=True)
        elif page is not None:
            page = open_page(page, name=f"The page {page.url}", is_saved=False)
        if page is None:
            return None
        return read_page(
            page.body,
            base_url=page.url,
            catalogue=self.catalogue,
            content_type=page.content_type,
        )


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}; expected 1 or more captions.")


def _web_url(flag: str, written: str) -> TakenUrl:
    """A URL that the user gave, in one spelling, and its user and password."""
    url = resolve_url(written, "")
    if url is None:
        raise ConfigError(
            f"{flag} is '{without_credentials(written)}'; expected a URL with http:// or https://."
        )
    if flag == "--cdn-url" and ("?" in url or "#" in written):
        raise ConfigError(
            f"{flag} is '{without_credentials(url)}': a folder has no query. Give the URL above "
            "samples/, such as https://cdn.openai.com/dall-e/v2."
        )
    return take_credentials(url)


def _read_file(file: Path) -> bytes:
    try:
        return read_small_file(file, max_bytes=MAX_ARCHIVE_BYTES, remedy="Give another --page.")
    except ContractError as error:
        raise ConfigError(f"The page can't be read: {error}") from error


def _page_sections(merged: Merged) -> tuple[SectionSummary, ...]:
    """All sections, with all their captions, for a later run to compare the page with."""
    counts = Plans(sections=merged.sections, cdn=merged.cdn).counts(refuse=False)
    return tuple(_summary(section, counts[section.name][0]) for section in merged.sections)


def _summary(section: MergedSection, captions: int) -> SectionSummary:
    shown = section.origin != "catalogue"
    return SectionSummary(name=section.name, captions=captions, shown=shown)
