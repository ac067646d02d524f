"""The DALL·E blog post of January 2021 as a source: page and catalogue → captions → addresses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pipeline.errors import ConfigError, ContractError, SourceError
from pipeline.parsing import read_small_file
from scrapers.dalleblog.captions import load_catalogue
from scrapers.dalleblog.choosing import choose_captions, choose_sections
from scrapers.dalleblog.merge import Merged, MergedSection, merge
from scrapers.dalleblog.page import PageContent, read_page
from scrapers.dalleblog.plans import Plans
from scrapers.optouts.page import read_meta
from scrapers.source import (
    CaptionPlan,
    Discovery,
    KeyKind,
    SectionSummary,
    SourceOptions,
)

_MAX_PAGE_BYTES = 256 << 20


class DalleBlogSource:
    """The blog post, from its page, from a saved file, or from the built-in catalogue alone."""

    name = "dalleblog"

    def __init__(self, options: SourceOptions) -> None:
        _check(options)
        self.options = options
        self.catalogue = load_catalogue()
        fetches = options.use_page and options.page_file is None
        self.page_url = options.page_url or self.catalogue.page
        self.start_url: str | None = self.page_url if fetches else None

    def discover(self, page: bytes | None) -> Discovery:
        """The captions of page and catalogue, as chosen. See `scrapers.source.Source`."""
        page = self._load(page)
        discovery = self._discover(page)
        return discovery if page is None else replace(discovery, page_meta=read_meta(page))

    def _discover(self, page: bytes | None) -> Discovery:
        merged = merge(self.catalogue, self._read(page), cdn=self.options.cdn_url)
        sections = choose_sections(merged.sections, self.options.sections)
        if self.options.captions_file is not None:
            chosen = choose_captions(sections, self.options.captions_file, cdn=merged.cdn)
            return _discovery_of_chosen(chosen[: self.options.limit], sections, merged)
        plans = Plans(sections=sections, cdn=merged.cdn, limit=self.options.limit)
        return _discovery(plans, plans.counts(), sections, merged)

    def _load(self, page: bytes | None) -> bytes | None:
        if not self.options.use_page:
            return None
        if page is None and self.options.page_file is not None:
            return _read_file(self.options.page_file)
        return page

    def _read(self, page: bytes | None) -> PageContent | None:
        if page is None:
            return None
        return read_page(page, base_url=self.page_url, catalogue=self.catalogue)


def open_dalleblog(options: SourceOptions) -> DalleBlogSource:
    """The source for these options. Raises ConfigError if they contradict each other."""
    return DalleBlogSource(options)


def _check(options: SourceOptions) -> None:
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}; expected 1 or more captions.")
    for flag, url in (("--page-url", options.page_url), ("--cdn-url", options.cdn_url)):
        if url is not None and not url.startswith(("http://", "https://")):
            raise ConfigError(f"{flag} is '{url}'; expected an address with http:// or https://.")


def _read_file(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if size > _MAX_PAGE_BYTES:
            raise SourceError(
                f"The page {file} has {size:,} bytes; at most {_MAX_PAGE_BYTES:,} are read. Is it "
                "the saved blog post?"
            )
        return read_small_file(file, max_bytes=_MAX_PAGE_BYTES, remedy="Give another --page.")
    except OSError as error:
        raise ConfigError(f"The page {file} can't be read: {error.strerror}.") from error
    except ContractError as error:
        raise ConfigError(str(error)) from error


def _discovery(
    plans: Plans,
    counts: dict[str, tuple[int, int]],
    sections: tuple[MergedSection, ...],
    merged: Merged,
) -> Discovery:
    return Discovery(
        plans=plans,
        num_captions=sum(captions for captions, _ in counts.values()),
        num_urls=sum(urls for _, urls in counts.values()),
        sections=tuple(_summary(section, counts[section.name][0]) for section in sections),
        differences=merged.differences,
    )


def _discovery_of_chosen(
    plans: tuple[CaptionPlan, ...], sections: Iterable[MergedSection], merged: Merged
) -> Discovery:
    numbers = {s.name: sum(plan.section == s.name for plan in plans) for s in sections}
    return Discovery(
        plans=plans,
        num_captions=len(plans),
        num_urls=sum(len(plan.ranks) for plan in plans),
        sections=tuple(_summary(s, numbers[s.name]) for s in sections if numbers[s.name]),
        differences=merged.differences,
    )


def _summary(section: MergedSection, captions: int) -> SectionSummary:
    key: KeyKind = section.templates[0].key
    return SectionSummary(
        name=section.name,
        captions=captions,
        key=key,
        origin=section.origin,
        catalogue_captions=section.catalogue_captions,
    )
