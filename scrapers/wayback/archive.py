"""The same captions from a web archive: its index, its copy of the page, the original bytes.

Reads the archive, slowly; writes `raw/archive.sqlite`, what its index says. The crawl itself is that
of the live site, with other addresses to ask at.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.progress import Progress
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig, plain_url
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import parse_retry_after
from scrapers.fetch.request_url import without_credentials
from scrapers.fetch.response import FetchError
from scrapers.fetch.verdict import HostSign
from scrapers.source import CaptionPlan, Discovery
from scrapers.sources.start_page import PageRefusedError
from scrapers.wayback.captures import (
    IndexPage,
    IndexRow,
    index_prefix,
    index_query,
    parse_index,
    replay_address,
)
from scrapers.wayback.index import CaptureIndex

logger = logging.getLogger(__name__)

# Of the page: its newest capture, and the first of each year where that can't be read any more.
_MAX_PAGES = 12
_PLANS_AT_ONCE = 500
_MAX_ANSWER_BYTES = 64 * 2**20

Read = TypeVar("Read")


def check_archive(config: ScrapeConfig) -> None:
    """Raise ConfigError if `--archive-url` is no web address."""
    url = plain_url(config.archive_url)
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            f"--archive-url is '{url}'; expected the address of a web archive with "
            "http:// or https://, such as https://web.archive.org."
        )


def request_limits(config: ScrapeConfig) -> tuple[int, float | None]:
    """Requests at a time and a second: an archive has its own, less if less was asked for."""
    if config.via is None:
        return config.concurrency, config.rate
    rate = config.archive_rate if config.rate is None else min(config.rate, config.archive_rate)
    return min(config.concurrency, config.archive_concurrency), rate


@dataclass(kw_only=True)
class Archive:
    """One archive during one run."""

    config: ScrapeConfig
    hosts: Hosts
    progress: Progress
    num_captures: int = 0

    @property
    def base(self) -> str:
        """Its address, without a slash at its end."""
        return plain_url(self.config.archive_url).rstrip("/")

    @contextlib.contextmanager
    def open_index(self) -> Iterator[CaptureIndex]:
        """What was learnt of its index so far."""
        path = Workspace(self.config.workspace).raw / "archive.sqlite"
        index = CaptureIndex(path, self.base)
        try:
            yield index
        finally:
            index.close()

    def describe(self) -> dict[str, Any]:
        """What the report says of it."""
        return {
            "address": self.base,
            "captures": self.num_captures,
            "rate": self.hosts.rate,
            "concurrency": self.hosts.max_slots,
        }

    # --- The page ---------------------------------------------------------------------------------

    async def fetch_page(
        self, url: str, read: Callable[[bytes], Discovery]
    ) -> tuple[bytes, Discovery, str]:
        """The newest capture of a page that `read` understands: body, what was read, its address.

        Raises SourceError if there is none.
        """
        address = index_query(self.base, url, prefix=False, collapse="timestamp:6")
        page = await self._ask(address, parse_index)
        wanted = _pages_to_try(page.rows)
        trouble = "its index holds no good capture of it."
        for row in wanted:
            address = replay_address(self.base, row)
            try:
                body = await self._ask(address, bytes)
                return body, read(body), address
            except PageRefusedError:
                raise
            except SourceError as error:
                trouble = f"of {len(wanted)} captures none could be read, the last: {error}"
        raise SourceError(
            f"The archive {self.base} has no use for the page {url}: {trouble} Use a saved page "
            "(--page FILE) or the built-in catalogue (--no-page)."
        )

    # --- The index --------------------------------------------------------------------------------

    async def load_index(
        self, index: CaptureIndex, discovery: Discovery, *, newer_than: int
    ) -> None:
        """Ask for what the index says of all that is wanted, and is not kept from an earlier run.

        Raises SourceError in a sentence if it can't be had.
        """
        for prefix in await _prefixes(discovery):
            resume_key = index.begin(prefix, newer_than=newer_than)
            asked: set[str] = set()
            while resume_key is not None:
                if resume_key in asked:
                    raise SourceError(
                        f"The index of the archive {self.base} goes in circles at {prefix}. Try "
                        "again later, or use another archive (--archive-url)."
                    )
                asked.add(resume_key)
                resume_key = await self._load_page(index, prefix, resume_key)
        self.num_captures = len(index)
        logger.info("%s holds %d captures of what is wanted.", self.base, self.num_captures)

    async def _load_page(self, index: CaptureIndex, prefix: str, resume_key: str) -> str | None:
        address = index_query(self.base, prefix, prefix=True, resume_key=resume_key or None)
        page: IndexPage = await self._ask(address, parse_index)
        index.add(prefix, page)
        self.num_captures += len(page.rows)
        self.progress(0, None, {"captures in the index": self.num_captures})
        return page.resume_key

    # --- Asking -----------------------------------------------------------------------------------

    async def _ask(self, url: str, read: Callable[[bytes], Read]) -> Read:
        """Ask at the host's pace, again while it seems worth it. `read` raises ValueError."""
        host = self.hosts.of(url)
        if not await self.hosts.allows(url):
            refusal = f"robots.txt of {host.origin} does not allow {_short(url)}"
            raise SourceError(
                f"{refusal if host.closed is None else host.why}. Try "
                "again later, or use another archive (--archive-url); --ignore-opt-out would ask all "
                "the same, and is recorded."
            )
        trouble = ""
        for attempt in range(1, self.config.attempts + 1):
            found = await self._ask_once(host, url, read)
            if not isinstance(found, _Trouble):
                return found
            trouble = found.text
            if not found.retry or self.hosts.leave_if_silent(host, trouble):
                break
            self.hosts.tell_wait(host, trouble)
            if attempt < self.config.attempts:
                await asyncio.sleep(self.hosts.backoff.delay_s(attempt, self.hosts.rng))
        raise SourceError(
            f"The archive {self.base} does not answer as expected: {trouble}, asked for {_short(url)}. "
            "What was fetched before is untouched. Try again later, or use another archive (--archive-url)."
        )

    async def _ask_once(
        self, host: Host, url: str, read: Callable[[bytes], Read]
    ) -> Read | _Trouble:
        while wait_s := host.pace.wait_s(self.hosts.monotonic()):
            await asyncio.sleep(wait_s)
        started = self.hosts.monotonic()
        host.pace.start(started)
        sign: HostSign = "neutral"
        retry_after_s = None
        try:
            answer = await self.hosts.client.get(
                url, max_bytes=_MAX_ANSWER_BYTES, allow_hop=self.hosts.allow_hop
            )
            sign = _sign(answer.status)
            retry_after_s = parse_retry_after(answer.retry_after)
            if answer.status != 200:
                retry = sign != "neutral" or answer.status in (408, 425)
                return _Trouble(f"status {answer.status}, expected 200", retry)
            refusal = answer.signals.refusal
            if refusal is not None and not self.hosts.ignore_opt_out:
                raise PageRefusedError(
                    f"{_short(url)} asks robots to stay away ({refusal}); --ignore-opt-out would use it."
                )
            return read(answer.body)
        except FetchError as error:
            sign = error.sign
            return _Trouble(
                f"{error.reason} ({error})", error.retry and error.reason != "too_large"
            )
        except ValueError as error:
            return _Trouble(str(error), True)
        finally:
            host.pace.finish(
                sign, started=started, now=self.hosts.monotonic(), retry_after_s=retry_after_s
            )


@dataclass(frozen=True)
class _Trouble:
    text: str
    retry: bool


def _short(url: str) -> str:
    """An address of the index without the details of its query."""
    return url.partition("&")[0]


def _sign(status: int) -> HostSign:
    if status in (429, 503):
        return "overload"
    return "good" if status == 200 else "down" if status >= 500 else "neutral"


def _pages_to_try(rows: list[IndexRow]) -> list[IndexRow]:
    """The newest capture, then the first of each year, newest first."""
    pages = [row for row in rows if row.mimetype.startswith("text/html")]
    pages.sort(key=lambda row: row.timestamp)
    first_of_year = {row.timestamp[:4]: row for row in reversed(pages)}
    wanted = [*pages[-1:], *sorted(first_of_year.values(), reverse=True)]
    return list(dict.fromkeys(wanted))[:_MAX_PAGES]


async def _prefixes(discovery: Discovery) -> list[str]:
    """The folders in which the images of all plans lie, sorted."""
    found: set[str] = set()
    for number, plan in enumerate(discovery.plans):
        found.update(_prefixes_of(plan))
        if number % _PLANS_AT_ONCE == 0:
            await asyncio.sleep(0)
    return sorted(found)


def _prefixes_of(plan: CaptionPlan) -> set[str]:
    return {index_prefix(without_credentials(form.url_template)) for form in plan.forms}
