"""`pipeline scrape`: fetch the images of a source, each once, through kills and faults.

Reads the network (and `raw/` of an earlier run); writes `raw/ledger.sqlite`, `raw/segments/*.tar` and, last,
`raw/manifest.json`. A run that finds everything there makes no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.core import estimate
from pipeline.core.contracts import StageReport
from pipeline.core.errors import SourceError
from pipeline.core.progress import NOW, Progress, no_progress
from pipeline.core.workspace import Workspace
from scrapers.config import USER_AGENT, ScrapeConfig
from scrapers.crawl.announcing import announce, estimate_crawl
from scrapers.crawl.crawl import Crawl
from scrapers.crawl.image_fetcher import ImageFetcher
from scrapers.crawl.jobs import Mode, PlanOpener
from scrapers.crawl.raw import NUMBERS_KEPT, RawStore, Work, begin_refresh, end_refresh
from scrapers.crawl.recorder import WallClock
from scrapers.crawl.site_fetcher import SiteFetcher
from scrapers.fetch.charset import decode_page
from scrapers.fetch.client import Client
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.opening import is_guarded, open_client, own_hosts
from scrapers.fetch.optouts.listed import NO_LIST, read_opt_outs
from scrapers.fetch.optouts.page import meta_elements
from scrapers.fetch.pace import Backoff, start_slots
from scrapers.fetch.page_urls import take_credentials
from scrapers.local.run import LocalRun
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.withdrawing import find_withdrawn
from scrapers.resizing.opening import open_resizer
from scrapers.resizing.rule import note_rule
from scrapers.source import (
    Discovery,
    LocalSource,
    PreparedSource,
    ReadsLong,
    Source,
    StartPage,
    open_source,
)
from scrapers.sources.differences import describe_differences, warn_of_losses
from scrapers.sources.sections import describe_page, keep_sections
from scrapers.sources.start_page import (
    fetch_page,
    keep_page,
    kept_page,
    page_name,
    refuse_reserved_page,
)
from scrapers.wayback.archive import Archive, announce_archive, check_archive, request_limits
from scrapers.wayback.jobs import ask_site_again

if TYPE_CHECKING:
    from scrapers.resizing.workers import Resizer

logger = logging.getLogger(__name__)

_MEASURED_S = 10.0  # a crawl begins slowly, so its first seconds say nothing about the rest
# Of the objects of a crawl, next to none are in reference cycles: with Python's own thresholds (700, 10, 10),
# looking for them takes a tenth of the time, and a quarter with thousands of hosts.
_GC_THRESHOLDS = (10_000, 20, 10)


def scrape(
    config: ScrapeConfig,
    progress: Progress = no_progress,
    *,
    source: Source | None = None,
    make_client: Callable[[ScrapeConfig], Client] | None = None,
    clock: WallClock = time.time,
) -> StageReport:
    """Fetch everything that the source names and the raw store lacks (or only list or export it).

    `source` and `make_client` replace what the options name; `clock` is the time of day for the ledger, on
    which nothing depends. Raises SourceError if the page can't be fetched or read, ConfigError, StorageError;
    KeyboardInterrupt on SIGINT and SIGTERM, after everything that arrived is on disk.
    """
    started = time.monotonic()
    if config.export is not None or config.list_urls:
        from scrapers.crawl.export import export  # pyarrow: 50 MB that a crawl doesn't need

        return export(config, source=source)
    check_archive(config)
    source = source or open_source(config)
    if config.only_shows:
        return describe_discovery(source.discover(None))
    raw = RawStore(config, Workspace(config.workspace), source)
    client = open_client(config, source) if make_client is None else make_client(config)
    run = _Run(config, source, raw, progress, client, clock)
    report = run.find_finished()
    if report is None:
        run.discover_offline()
        with _rare_gc(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(run.fetch())
        report = run.report
    if report is None:
        raise KeyboardInterrupt
    did = _run_record(config, report)
    details = {**report.details, "did": did} if did else report.details
    return dataclasses.replace(report, details=details, seconds=time.monotonic() - started)


def _run_record(config: ScrapeConfig, report: StageReport) -> dict[str, Any]:
    """The entry of a run in `runs.jsonl`: its extent, what was fetched, what wasn't, changes of the page.

    A plan fetches nothing: only a change of the page is noted.
    """
    page = report.details.get("page", {})
    changes = {"page": page} if page.get("changed") else {}
    if config.plan:
        return changes
    numbers = {name: report.details[name] for name in NUMBERS_KEPT if name in report.details}
    return {**config.extent(), **numbers, **changes}


def find_finished(config: ScrapeConfig) -> StageReport | None:
    """The report of a scrape with nothing to do; None if there may be work. Makes no request."""
    source = open_source(config)
    raw = RawStore(config, Workspace(config.workspace), source)
    return _Run(config, source, raw, no_progress, open_client(config, source)).find_finished()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # twice the requests per second
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@contextlib.contextmanager
def _rare_gc() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*_GC_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)


@dataclass
class _Run:
    """One run of the stage, with what it learns on the way."""

    config: ScrapeConfig
    source: Source
    raw: RawStore
    progress: Progress
    client: Client
    clock: WallClock = time.time
    page: StartPage | None = None
    discovery: Discovery | None = None
    interrupted: bool = False
    work: Work | None = None
    archive: Archive | None = None
    report: StageReport | None = None
    main: asyncio.Task[None] | None = None

    def find_finished(self) -> StageReport | None:
        """The report of a run with nothing to do, without a request; None if there may be work."""
        if self.config.refresh or self.config.update or self.config.plan:
            return None
        if isinstance(self.source, LocalSource):
            return None  # only the files say whether there is work
        if self.source.start_url is not None:
            self.page = kept_page(self.raw.workspace, self.source.start_url)
            if self.page is None:
                return None
        return self.raw.find_finished(self._page_bytes)

    def discover_offline(self) -> None:
        """Read what a source without a page has, outside of the event loop: a long list takes minutes."""
        source = self.source
        if isinstance(source, ReadsLong):
            source.reading = self.progress
        if isinstance(source, PreparedSource) and not self.config.plan:
            source.prepare(self.progress)
        elif source.start_url is None and (self.config.plan or not isinstance(source, LocalSource)):
            self.discovery = self._discover(None)

    async def fetch(self) -> None:
        """Fetch the page if necessary, then the images."""
        self.main = asyncio.current_task()
        with _signals(self._stop):
            try:
                async with self.client:
                    await self._fetch()
            except asyncio.CancelledError:
                if not self.interrupted:
                    raise

    @property
    def _page_bytes(self) -> bytes | None:
        return None if self.page is None else self.page.body

    def _stop(self) -> None:
        first, self.interrupted = not self.interrupted, True
        if first and self.work is not None:
            logger.warning("Stopping: what has arrived is being written.")
            self.work.stop()
        elif self.main is not None:
            self.main.cancel()

    async def _fetch(self) -> None:
        hosts = self._hosts()
        if isinstance(self.source, LocalSource) and not self.config.plan:
            self.report = await self._index(self.source, hosts)
            return
        url = self.source.start_url
        if self.config.via is not None:
            announce_archive(self.config)
            self.archive = Archive(config=self.config, hosts=hosts, progress=self.progress)
        if url is not None and self.page is None:
            discovery = await self._fetch_page(url, hosts)
        else:
            discovery = self.discovery or self._discover(self.page)
        self.client.remember_users(discovery.credentials)
        warn_of_losses(discovery.warnings, self.raw.workspace)
        asked = [section.name for section in discovery.sections]
        changes = describe_page(self.raw.workspace, discovery.page_sections, asked=asked)
        if self.config.plan:
            self.report = describe_discovery(discovery)
        else:
            self.report = self.raw.find_finished(self._page_bytes) if self.config.update else None
            if self.report is None:
                with self.raw.open(self.source.name) as store:
                    await self._fetch_images(discovery, store, hosts)
        if self.report is not None:
            details = {**self.report.details, "page": changes}
            self.report = dataclasses.replace(self.report, details=details)
            keep_sections(self.raw.workspace, discovery.page_sections, asked=asked)

    async def _fetch_page(self, url: str, hosts: Hosts) -> Discovery:
        address = None
        if self.archive is not None:
            shown = take_credentials(url).url

            def discover(body: bytes) -> Discovery:
                return self._discover(StartPage(body=body, url=shown))

            body, discovery, address = await self.archive.fetch_page(shown, discover)
            self.page = StartPage(body=body, url=shown)
        else:
            self.progress(0, None, {NOW: "fetching the page"})
            self.page = await fetch_page(url, self.client, hosts, attempts=self.config.attempts)
            discovery = self._discover(self.page)
        keep_page(self.raw.workspace, url, self.page, address=address)
        return discovery

    def _discover(self, page: StartPage | None) -> Discovery:
        try:
            discovery = self.source.discover(page)
        except SourceError:
            # A page without readable content may still refuse: an older copy is no way around that.
            if page is not None and not self.config.ignore_opt_out:
                meta = meta_elements(decode_page(page.body, page.content_type))
                refuse_reserved_page(meta, page_name(self.source), USER_AGENT)
            raise
        if not self.config.ignore_opt_out:
            refuse_reserved_page(discovery.page_meta, page_name(self.source, discovery), USER_AGENT)
        return discovery

    def _hosts(self) -> Hosts:
        config = self.config
        slots, rate = request_limits(config)
        return Hosts(
            client=self.client,
            backoff=Backoff(base_s=config.backoff_s, cap_s=config.max_backoff_s),
            rng=random.Random(),
            max_slots=slots,
            rate=rate,
            ignore_opt_out=config.ignore_opt_out,
            monotonic=time.monotonic,
            max_outage_s=config.max_outage_s,
            named=own_hosts(config, self.source),
            listed=NO_LIST if config.opt_outs is None else read_opt_outs(config.opt_outs),
        )

    async def _index(self, source: LocalSource, hosts: Hosts) -> StageReport | None:
        def watch(work: Work) -> None:
            self.work = work

        run = LocalRun(
            config=self.config,
            source=source,
            raw=self.raw,
            hosts=hosts,
            progress=self.progress,
            clock=self.clock,
            watch=watch,
            is_stopped=lambda: self.interrupted,
        )
        return await run.run()

    async def _fetch_images(self, discovery: Discovery, store: Store, hosts: Hosts) -> None:
        since = begin_refresh(store.ledger, self.clock) if self.config.refresh else 0
        ledger, mode = store.reader, self._mode()
        if self.archive is not None:
            with self.archive.open_index() as index:
                fetcher = await self.archive.load_index(index, discovery, newer_than=since)
                opener = self.archive.opener(index, ledger=ledger, mode=mode, since=since)
                await self._crawl(discovery, store, hosts, opener, fetcher)
            return
        # With --connect-to the user names the one place that is asked.
        is_foreign = discovery.is_foreign and self.config.connect_to is None
        hosts.guarded = is_foreign or await is_guarded(self.config, self.source, self.client)
        if self.source.start_url is not None:
            self.client.show_page(self.source.start_url)
        await self._crawl(
            discovery,
            store,
            hosts,
            PlanOpener(ledger=ledger, mode=mode, refresh_since=since, elsewhere=ask_site_again),
            SiteFetcher(hosts=hosts, attempts=self.config.attempts),
        )

    async def _crawl(
        self,
        discovery: Discovery,
        store: Store,
        hosts: Hosts,
        opener: PlanOpener,
        fetcher: ImageFetcher | None,
    ) -> None:
        if self.archive is None:
            hosts.start_slots = start_slots(discovery.num_hosts)
        rule = self.config.resize_rule()
        note_rule(store.ledger, rule)
        with open_resizer(rule, self.config.resize_engine()) as resizer:
            await self._crawl_with(resizer, discovery, store, hosts, opener, fetcher)

    async def _crawl_with(
        self,
        resizer: Resizer | None,
        discovery: Discovery,
        store: Store,
        hosts: Hosts,
        opener: PlanOpener,
        fetcher: ImageFetcher | None,
    ) -> None:
        progress = estimate.announce(
            estimate_crawl(self.config, discovery, store.ledger),
            self.progress,
            force=self.config.force,
            measured_s=_MEASURED_S,
        )
        crawl = self.work = Crawl(
            self.config,
            hosts=hosts,
            store=store,
            opener=opener,
            fetcher=fetcher,
            num_urls=discovery.num_urls,
            num_hosts=1 if self.archive is not None else discovery.num_hosts,
            progress=progress,
            clock=self.clock,
            resizer=resizer,
        )
        url = None if self.archive is None else self.config.archive_url
        await announce(self.config, discovery, hosts, store.ledger, url=url)
        self._withdraw(crawl, store, hosts)
        if fetcher is None:
            # Every image would be recorded as not archived: leave them all for another run instead.
            crawl.leave(discovery.plans)
            await crawl.run(())
        else:
            await crawl.run(discovery.plans)
        if self.interrupted:
            return
        if self.config.refresh and not crawl.left:
            end_refresh(store.ledger)
        self.report = self.raw.finish(
            store,
            crawl,
            self._page_bytes,
            repeated=opener.repeated,
            differences=(*discovery.differences, *_departed(discovery, opener)),
        )
        if self.archive is not None:
            details = {**self.report.details, "archive": self.archive.describe()}
            self.report = dataclasses.replace(self.report, details=details)

    def _withdraw(self, crawl: Crawl, store: Store, hosts: Hosts) -> None:
        for touch in list(find_withdrawn(store.reader, hosts.listed, int(self.clock()))):
            store.add_touch(touch)
            crawl.tally.withdrawn += 1

    def _mode(self) -> Mode:
        if self.config.refresh:
            return "refresh"
        return "retry_failed" if self.config.retry_failed else "continue"


def _departed(discovery: Discovery, opener: PlanOpener) -> tuple[str, ...]:
    """What the report says of URLs that an earlier run found in the source, and this one didn't."""
    number = opener.count_unnamed() if discovery.names_all else 0
    if not number:
        return ()
    urls = "1 URL of earlier runs is" if number == 1 else f"{number:,} URLs of earlier runs are"
    return (f"{urls} no longer named; what was fetched is kept.",)


def describe_discovery(discovery: Discovery) -> StageReport:
    """The report of a run that only looks what there is."""
    sections = {s.name: {"captions": s.captions} for s in discovery.sections}
    return StageReport(
        stage="scrape",
        outcome="done",
        counts={
            "sections": len(sections),
            "captions": discovery.num_captions,
            "urls": discovery.num_urls,
        },
        details={"sections": sections, **describe_differences(discovery.differences)},
    )


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call `stop`, in the main thread (elsewhere signals belong to others)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
