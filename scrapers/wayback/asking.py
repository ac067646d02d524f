"""Paced queries to a web archive: its index, and its copy of the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pipeline.core.errors import SourceError
from scrapers.fetch.client import HopCheck
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import HostPace, parse_retry_after
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.verdict import HostSign
from scrapers.wayback.replay import archive_says, is_recorded, looks_like_page

_MAX_ANSWER_BYTES = 64 * 2**20
# The responses of a web server where there is no index.
_ELSEWHERE = frozenset(
    {"unreadable", "redirects", "bad_redirect", "leaves_archive", "redirect_without_location"}
    | {f"http_{status}" for status in (400, 404, 405, 406, 410, 501)}
)

Read = TypeVar("Read")
# Raises ValueError with a sentence for what can't be read.
ReadResponse = Callable[[Response], Read]


@dataclass(frozen=True)
class Trouble:
    """Why a query had no readable response; `reason` is a short word."""

    text: str
    retry: bool = False
    reason: str = ""

    @property
    def is_elsewhere(self) -> bool:
        """Whether the resource may well be at another URL."""
        return self.reason in _ELSEWHERE


class NoResponseError(SourceError):
    """An archive without a response, or without a readable one, with its `trouble`."""

    def __init__(self, text: str, trouble: Trouble) -> None:
        super().__init__(text)
        self.trouble = trouble


class ExcludedError(SourceError):
    """What the administrator of an archive has excluded."""


@dataclass(kw_only=True)
class Asker:
    """Sends queries to the archive at `base`."""

    base: str
    hosts: Hosts
    attempts: int

    @property
    def is_given_up(self) -> bool:
        """Whether this run sends no more queries to the archive."""
        return self.hosts.of(f"{self.base}/").closed is not None

    async def ask(
        self,
        url: str,
        read: ReadResponse[Read],
        *,
        allow_hop: HopCheck,
        pace: HostPace | None = None,
        attempts: int | None = None,
        looking: bool = False,
        quiet_s: float | None = None,
    ) -> Read:
        """Query at the host's pace, and at `pace` too, with retries.

        `looking`: the resource may be elsewhere, so a response of another kind is no trouble. Raises
        NoResponseError, and SourceError for what must not be requested.
        """
        host = self.hosts.of(url)
        if not await self.hosts.allows(url):
            why = self.hosts.why_not(url).replace(url, _short(url))
            raise SourceError(
                f"{why}. Try again later, or use another archive (--archive-url). --ignore-opt-out would "
                "query it anyway, and is recorded."
            )
        attempts = self.attempts if attempts is None else attempts
        trouble = Trouble("it was not queried")
        for attempt in range(1, attempts + 1):
            found = await self._ask_once(host, url, read, allow_hop, pace, quiet_s, looking=looking)
            if not isinstance(found, Trouble):
                return found
            trouble = found
            if looking and trouble.is_elsewhere:
                break
            if not trouble.retry or self.hosts.close_if_down(host, trouble.text):
                break
            self.hosts.log_wait(host, trouble.text)
            if attempt < attempts:
                await asyncio.sleep(self.hosts.backoff.delay_s(attempt, self.hosts.rng))
        raise NoResponseError(
            f"The archive {self.base} doesn't respond as expected: {trouble.text}, to {_short(url)}. "
            "What was fetched before is untouched. Try again later, or use another archive (--archive-url).",
            trouble,
        )

    async def _ask_once(
        self,
        host: Host,
        url: str,
        read: ReadResponse[Read],
        allow_hop: HopCheck,
        pace: HostPace | None,
        quiet_s: float | None,
        *,
        looking: bool,
    ) -> Read | Trouble:
        paces = [host.pace] if pace is None else [host.pace, pace]
        now = self.hosts.monotonic
        while wait_s := max(one.wait_s(now()) or 0.0 for one in paces):
            await asyncio.sleep(wait_s)
        started = now()
        for one in paces:
            one.start(started)
        sign: HostSign = "neutral"
        retry_after_s = None
        answered = False
        try:
            response = await self.hosts.client.get(
                url, max_bytes=_MAX_ANSWER_BYTES, allow_hop=allow_hop, quiet_s=quiet_s, pace=pace
            )
            sign, answered = _sign(response), True
            retry_after_s = parse_retry_after(response.retry_after)
            if (trouble := self._trouble_of(response, url)) is not None:
                return trouble
            return read(response)
        except FetchError as error:
            sign = error.sign
            again = error.retry and error.reason != "too_large"
            return Trouble(f"{error.reason} ({error})", again, error.reason)
        except ValueError as error:
            # A page instead of data: the archive is overloaded, whatever the status says.
            if not looking and looks_like_page(response.body):
                sign = "overload"
            return Trouble(str(error), True, "unreadable")
        finally:
            for one in paces:
                one.finish(
                    sign,
                    started=started,
                    now=now(),
                    retry_after_s=retry_after_s,
                    answered=answered,
                )

    def _trouble_of(self, response: Response, url: str) -> Trouble | None:
        if archive_says(response) == "excluded":
            raise ExcludedError(
                f"The administrator of the archive {self.base} has excluded {_short(url)}. "
                "Use another archive (--archive-url), a saved page (--page FILE) or the site itself."
            )
        if response.status == 200:
            return None
        retry = _sign(response) in ("overload", "down") or response.status in (408, 425)
        return Trouble(f"status {response.status}, expected 200", retry, f"http_{response.status}")


def _short(url: str) -> str:
    """A URL of the index without the details of its query."""
    return url.partition("&")[0]


def _sign(response: Response) -> HostSign:
    status = response.status
    if is_recorded(response):
        return "good"  # Whatever the site said then, the archive responds.
    if archive_says(response) is not None:
        return "neutral"  # For this URL only, and permanently.
    if status in (429, 503, 504):
        return "overload"
    return "good" if status == 200 else "down" if status >= 500 else "neutral"
