"""A crawl through a web archive: its index, its copy of the page, the original bytes.

Queries the archive slowly; writes `raw/archive.sqlite`, a copy of its index. The crawl itself is the same as
that of the live site, with other URLs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig, plain_url
from scrapers.crawl.jobs import Mode, PlanOpener
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import HostPace
from scrapers.fetch.request_url import without_credentials
from scrapers.fetch.response import FetchError, Response
from scrapers.rawstore.ledger import Ledger
from scrapers.source import CaptionPlan, Discovery
from scrapers.sources.start_page import PageRefusedError
from scrapers.wayback.asking import Asker, Read, ReadResponse
from scrapers.wayback.fetcher import ArchiveFetcher
from scrapers.wayback.finding import look_for_index
from scrapers.wayback.index import CaptureIndex
from scrapers.wayback.jobs import ArchiveOpener
from scrapers.wayback.listing import Listing
from scrapers.wayback.page import ArchivedPage
from scrapers.wayback.query import (
    Endpoints,
    IndexPage,
    index_prefix,
    known_endpoints,
    parse_index,
)
from scrapers.wayback.replay import Replay, is_same_host, refusal_of_archive

logger = logging.getLogger(__name__)

_PLANS_AT_ONCE = 500
# The rest after a response that we made too many requests; one more for each that follows.
REST_S = 60.0


def check_archive(config: ScrapeConfig) -> None:
    """Raise ConfigError if `--archive-url` is not a web URL."""
    url = plain_url(config.archive_url)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"--archive-url is '{url}'; expected the URL of a web archive with "
            "http:// or https://, such as https://web.archive.org."
        )


def request_limits(config: ScrapeConfig) -> tuple[int, float | None]:
    """Concurrent requests and requests per second: captures have their own limits, or lower general ones."""
    if config.via is None:
        return config.concurrency, config.rate
    return min(config.concurrency, config.archive_concurrency), _least(config, config.archive_rate)


def index_rate(config: ScrapeConfig) -> float:
    """Queries of the index per second, less if a lower rate was given."""
    return _least(config, config.archive_index_rate)


def _least(config: ScrapeConfig, rate: float) -> float:
    return rate if config.rate is None else min(config.rate, rate)


def announce_archive(config: ScrapeConfig) -> None:
    """Log the two rates at which an archive will be queried, wherever it is."""
    slots, rate = request_limits(config)
    logger.info(
        "%s: at most %.6g index queries per minute (--archive-index-rate) and %.6g captures per minute "
        "(--archive-rate), %d at a time.",
        plain_url(config.archive_url),
        60 * index_rate(config),
        60 * (rate or 0),
        slots,
    )


@dataclass(kw_only=True)
class Archive:
    """One archive during one run."""

    config: ScrapeConfig
    hosts: Hosts
    progress: Progress
    num_captures: int = 0
    doubts: dict[str, str] = field(default_factory=dict)
    _endpoints: Endpoints | None = None
    _replay: Replay | None = None

    def __post_init__(self) -> None:
        self.base = plain_url(self.config.archive_url).rstrip("/")
        self._asker = Asker(base=self.base, hosts=self.hosts, attempts=self.config.attempts)
        self._index_pace = HostPace(
            max_slots=1,
            rate=index_rate(self.config),
            outage=self.hosts.backoff,
            rng=self.hosts.rng,
            now=self.hosts.monotonic(),
        )
        self.hosts.of(self.base + "/").pace.rest_s = REST_S
        self._tags: set[str] = set()

    @contextlib.contextmanager
    def open_index(self) -> Iterator[CaptureIndex]:
        """What is uncertain about its index so far."""
        path = Workspace(self.config.workspace).raw / "archive.sqlite"
        index = CaptureIndex(path, self.base)
        try:
            yield index
        finally:
            index.close()

    def describe(self) -> dict[str, Any]:
        """The archive's part of the report."""
        return {
            "address": self.base,
            "dialect": None if self._endpoints is None else self._endpoints.dialect,
            "captures": self.num_captures,
            "rate": self.hosts.rate,
            "index_rate": index_rate(self.config),
            "concurrency": self.hosts.max_slots,
            "doubts": self.doubts,
        }

    # --- Endpoints ----------------------------------------------------------------------------------

    async def find(self, url: str) -> Endpoints:
        """The URLs of index and replay: known, remembered, or found by querying about `url`.

        Raises SourceError if nothing there is an index.
        """
        if self._endpoints is None:
            with self.open_index() as index:
                self._endpoints = known_endpoints(self.base) or index.endpoints
                if self._endpoints is None:
                    self._endpoints = await look_for_index(self.base, url, self._ask_place)
                    index.keep_endpoints(self._endpoints)
        return self._endpoints

    async def _ask_place(self, query: str, read: ReadResponse[Read]) -> Read:
        def note_and_read(response: Response) -> Read:
            self._note_tags(response)
            return read(response)

        return await self._ask(query, note_and_read, looking=True)

    def replay(self, endpoints: Endpoints) -> Replay:
        """The reader of the archive's responses to requests for captures."""
        if self._replay is None:
            self._replay = Replay(
                base=self.base,
                replay=endpoints.replay_url,
                agent=self.hosts.client.user_agent.partition("/")[0],
                allow_hop=self.hosts.allow_hop,
                passes_headers=endpoints.dialect == "pywb",
                tags=self._tags,
            )
        return self._replay

    # --- The page ---------------------------------------------------------------------------------

    async def fetch_page(
        self, url: str, read: Callable[[bytes], Discovery]
    ) -> tuple[bytes, Discovery, str]:
        """The newest capture of a page that `read` understands: body, the result of `read`, its URL.

        Raises SourceError if there is none.
        """
        endpoints = await self.find(url)
        page = ArchivedPage(
            endpoints=endpoints,
            replay=self.replay(endpoints),
            asker=self._asker,
            ask_index=lambda query: self._ask_index(endpoints, query),
        )
        return await page.fetch(url, read)

    # --- The index --------------------------------------------------------------------------------

    def opener(self, index: CaptureIndex, *, ledger: Ledger, mode: Mode, since: int) -> PlanOpener:
        """Opens plans with what `load_index` has found; `since` is when the refresh began, 0 for none."""
        return ArchiveOpener(
            ledger=ledger,
            mode=mode,
            refresh_since=since,
            index=index,
            doubtful=tuple(self.doubts),
            replay="" if self._endpoints is None else self._endpoints.replay_url,
        )

    async def load_index(
        self, index: CaptureIndex, discovery: Discovery, *, newer_than: int
    ) -> ArchiveFetcher | None:
        """Query the index about everything that is wanted and not kept from an earlier run.

        Returns what fetches the captures, None if it has none. Raises SourceError with a sentence if the
        index can't be read.
        """
        prefixes = await _prefixes(discovery)
        for prefix in prefixes:
            await self._load(index, prefix, newer_than)
        self._tags.update(index.keep_tags(self._tags))
        held = index.counts(prefixes)
        self.num_captures = sum(held.values())
        self.doubts = {prefix: d for prefix, d in index.doubts.items() if prefix in held}
        for prefix, doubt in self.doubts.items():
            logger.warning("%s may have more captures of %s: %s.", self.base, prefix, doubt)
        empty = [prefix for prefix in prefixes if not held[prefix]]
        if empty:
            self._tell_empty(empty, nothing=not self.num_captures)
        if not self.num_captures:
            index.forget_all()
            return None
        logger.info("%s has %d captures of the requested images.", self.base, self.num_captures)
        replay = self.replay(await self.find(prefixes[0]))
        return ArchiveFetcher(hosts=self.hosts, replay=replay, attempts=self.config.attempts)

    def _tell_empty(self, prefixes: list[str], *, nothing: bool) -> None:
        named = ", ".join(prefixes[:3]) + (f" and {len(prefixes) - 3} more" if prefixes[3:] else "")
        logger.warning(
            "The index of %s has none of the requested images (%s).%s",
            self.base,
            named,
            " Nothing was requested. Is --archive-url the URL of the collection? Try another archive, or "
            "again later."
            if nothing
            else "",
        )

    async def _load(self, index: CaptureIndex, prefix: str, newer_than: int) -> None:
        cursor = index.begin(prefix, newer_than=newer_than)
        if cursor is None:
            return
        endpoints = await self.find(prefix)

        async def ask(url: str, *, once: bool = False) -> IndexPage:
            return await self._ask_index(endpoints, url, attempts=1 if once else None)

        listing = Listing(at=endpoints, prefix=prefix, ask=ask, lacks=index.lacks)
        read = set()
        while cursor is not None:
            if cursor in read:
                raise SourceError(
                    f"The index of the archive {self.base} goes in circles at {prefix}. Try "
                    "again later, or use another archive (--archive-url)."
                )
            read.add(cursor)
            step = await listing.read(cursor)
            index.add(prefix, step)
            cursor = step.cursor
            self.num_captures += len(step.rows)
            self.progress(0, None, {"captures in the index": self.num_captures})

    async def _ask_index(
        self, endpoints: Endpoints, url: str, *, attempts: int | None = None
    ) -> IndexPage:
        def read(response: Response) -> IndexPage:
            self._note_tags(response)
            return parse_index(response.body, endpoints.dialect)

        return await self._ask(url, read, attempts=attempts)

    # --- Queries ------------------------------------------------------------------------------------

    async def _ask(
        self,
        url: str,
        read: ReadResponse[Read],
        *,
        attempts: int | None = None,
        looking: bool = False,
    ) -> Read:
        return await self._asker.ask(
            url,
            read,
            allow_hop=self._allow_hop,
            pace=self._index_pace,
            attempts=attempts,
            looking=looking,
        )

    async def _allow_hop(self, url: str, public_only: bool) -> bool:
        """The index must not leave its host."""
        if not is_same_host(url, self.base):
            raise FetchError("leaves_archive", "a redirect away from the archive")
        return await self.hosts.allow_hop(url, public_only)

    def _note_tags(self, response: Response) -> None:
        """Headers of the index are the archive's own, wherever they are."""
        self._tags.update(response.headers.getall("x-robots-tag"))
        refusal = refusal_of_archive(response.signals)
        if refusal is not None and not self.hosts.ignore_opt_out:
            raise PageRefusedError(
                f"The archive {self.base} opts out of being used ({refusal}). Use another one "
                "(--archive-url). --ignore-opt-out would query it anyway, and is recorded."
            )


async def _prefixes(discovery: Discovery) -> list[str]:
    """The folders that contain the images of all plans, sorted."""
    found: set[str] = set()
    for number, plan in enumerate(discovery.plans):
        found.update(_prefixes_of(plan))
        if number % _PLANS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return sorted(found)


def _prefixes_of(plan: CaptionPlan) -> set[str]:
    return {index_prefix(without_credentials(form.url_template)) for form in plan.forms}
