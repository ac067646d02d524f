"""One run over a source on disk: index its images; with --retry-failed, fetch what another tool could not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from pipeline.core.contracts import StageReport
from pipeline.core.estimate import free_bytes
from pipeline.core.progress import Progress
from pipeline.core.quantities import size
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig
from scrapers.crawl.crawl import Crawl
from scrapers.crawl.jobs import Mode, PlanOpener
from scrapers.crawl.raw import RawStore, Work, begin_refresh, end_refresh
from scrapers.crawl.recorder import WallClock
from scrapers.crawl.site_fetcher import SiteFetcher
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.optouts.embedded import refusal_finder
from scrapers.local.deciding import Wish
from scrapers.local.indexing import Indexer
from scrapers.local.retrying import count_failed, failed_plans
from scrapers.rawstore.batch_writer import Store
from scrapers.rawstore.withdrawing import find_withdrawn
from scrapers.resizing.opening import open_resizer
from scrapers.resizing.rule import note_rule
from scrapers.source import LocalSource
from scrapers.sources.remarks import Remarks

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """What a run needs. `watch` is told what works, so that a signal can stop it."""

    config: ScrapeConfig
    source: LocalSource
    raw: RawStore
    hosts: Hosts
    progress: Progress
    clock: WallClock
    watch: Callable[[Work], None]
    is_stopped: Callable[[], bool]

    async def run(self) -> StageReport | None:
        """The report; None if the run was stopped."""
        remarks = Remarks()
        with self.raw.open(self.source.name) as store:
            index = await self._index(store, remarks)
            work: Work = index
            if self.config.retry_failed and not self.is_stopped():
                work = await self._retry(index, store)
            if self.is_stopped():
                return None
            for sentence in remarks.sentences():
                logger.warning("%s", sentence)
            return self.raw.finish(
                store, work, None, repeated=index.repeated, differences=remarks.sentences()
            )

    def _announce(self) -> None:
        """Log what is about to be done; how many images there are, only reading the source tells."""
        copied = bool(getattr(self.config, "copy", False))
        logger.info(
            "scrape: read and hash the images of %s; %s. An image takes about 1 kB of the ledger (%s free).",
            ", ".join(self.config.inputs) or self.source.name,
            "they are copied into the raw store" if copied else "they stay where they are",
            size(free_bytes(Workspace(self.config.workspace).raw)),
        )

    async def _index(self, store: Store, remarks: Remarks) -> Indexer:
        config = self.config
        self._announce()
        note_rule(store.ledger, config.resize_rule())
        since = begin_refresh(store.ledger, self.clock) if config.refresh else 0
        mode: Mode = "retry_failed" if config.retry_failed else "continue"
        index = Indexer(
            store,
            Wish(
                mode="refresh" if config.refresh else mode,
                copy=bool(getattr(config, "copy", False)),
                since=since,
            ),
            heed=refusal_finder(self.hosts.listed, ignore_opt_out=config.ignore_opt_out),
            progress=self.progress,
            clock=self.clock,
        )
        self.watch(index)
        for touch in list(find_withdrawn(store.reader, self.hosts.listed, int(self.clock()))):
            store.add_touch(touch)
            index.tally.withdrawn += 1
        await index.run(islice(self.source.items_on_disk(remarks), config.limit))
        if config.refresh and not self.is_stopped():
            end_refresh(store.ledger)
        return index

    async def _retry(self, index: Indexer, store: Store) -> Crawl:
        """Crawl the failed rows that have a URL of the web."""
        number, is_public = count_failed(store.reader)
        # A list of public hosts is somebody else's: it must not lead to private ones.
        self.hosts.guarded = is_public and self.config.connect_to is None
        with open_resizer(self.config.resize_rule()) as resizer:
            crawl = Crawl(
                self.config,
                hosts=self.hosts,
                store=store,
                opener=PlanOpener(ledger=store.reader, mode="retry_failed"),
                fetcher=SiteFetcher(hosts=self.hosts, attempts=self.config.attempts),
                num_urls=number,
                progress=self.progress,
                clock=self.clock,
                resizer=resizer,
            )
            self.watch(crawl)
            crawl.tally.add(index.tally)
            await crawl.run(failed_plans(store.reader))
        return crawl
