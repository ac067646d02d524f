"""Lists of URLs as a source: files → columns → rows → plans."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from pipeline.core.progress import Progress, no_progress
from scrapers.config import ScrapeConfig
from scrapers.crawl.announcing import is_public_name
from scrapers.fetch.request_url import parse_address
from scrapers.source import CaptionPlan, Discovery, SectionSummary, StartPage
from scrapers.sources.urls.columns import OpenList, no_rows, open_list
from scrapers.sources.urls.config import UrlsConfig
from scrapers.sources.urls.counting import count_rows
from scrapers.sources.urls.faults import Faults
from scrapers.sources.urls.list_files import ListFile, find_list_files
from scrapers.sources.urls.rows import select_rows
from scrapers.sources.urls.showing import show_list, warn_of_faults, warn_of_one_host

logger = logging.getLogger(__name__)


class UrlsSource:
    """Lists of URLs and captions. See `scrapers.source.Source`."""

    name = "urls"
    start_url: str | None = None

    def __init__(self, config: ScrapeConfig) -> None:
        """Raises ConfigError if there is no list at one of the paths."""
        assert isinstance(config, UrlsConfig)
        self.config = config
        self.reading: Progress = no_progress
        self.files = find_list_files(config.inputs)

    def input_digests(self) -> Mapping[str, str]:
        """A digest of each list, by its name."""
        digests: dict[str, str] = {}
        for file in self.files:
            name = f"lists/{file.section}/{file.name}"
            same = sum(other.startswith(name) for other in digests)
            digests[f"{name}#{same + 1}" if same else name] = self._digest(file)
        return digests

    def _digest(self, file: ListFile) -> str:
        """A file that was written to while it was read matches no digest: the next run reads it again."""
        digest = file.digest
        if not file.has_changed():
            return digest
        logger.warning(
            "The list %s was changed while it was read: run the command again.", file.name
        )
        return "changed while it was read"

    def discover(self, page: StartPage | None) -> Discovery:
        """The rows of the lists. Reads them once, and again as the plans are taken."""
        assert page is None
        lists = self._open()
        if self.config.dry_run:
            return Discovery(plans=(), num_captions=0, num_urls=0)
        counts = count_rows(lists, self.config, self.reading)
        warn_of_faults(counts)
        if not counts.rows:
            raise no_rows(self.files, " ".join(counts.sentences()).rstrip(".") or "no row is in it")
        warn_of_one_host(counts, self.config)
        return Discovery(
            plans=_Plans(lists=tuple(lists), config=self.config),
            num_captions=counts.rows,
            num_urls=counts.rows,
            sections=tuple(SectionSummary(name=n, captions=c) for n, c in counts.sections.items()),
            differences=counts.sentences(),
            is_foreign=any(map(_is_public, counts.origins)),
            busiest=counts.origins.most_common(1)[0],
            num_hosts=counts.num_origins,
            names_all=self.config.limit is None,
        )

    def _open(self) -> list[OpenList]:
        """Choose the columns of each list, and print what was chosen for the first file of each."""
        lists: list[OpenList] = []
        shown: set[str] = set()
        for file in self.files:
            opened = open_list(file, self.config)
            if opened is None:
                logger.warning("The list %s is empty.", file.name)
                continue
            lists.append(opened)
            if file.section not in shown:
                shown.add(file.section)
                show_list(opened, self.config)
        if not lists:
            raise no_rows(self.files)
        return lists


@dataclass(frozen=True, kw_only=True)
class _Plans:
    lists: tuple[OpenList, ...]
    config: UrlsConfig

    def __iter__(self) -> Iterator[CaptionPlan]:
        return islice(self._all(), self.config.limit)

    def _all(self) -> Iterator[CaptionPlan]:
        for opened in self.lists:
            for rows in select_rows(opened, Faults(), Counter(), shard=self.config.shard_of):
                yield from rows.plans()


def _is_public(origin: str) -> bool:
    return is_public_name(parse_address(origin).host)
