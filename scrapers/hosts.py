"""The hosts of a crawl: for each one its pace, its robots.txt and the jobs that wait for it."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from scrapers.answer import FetchError
from scrapers.client import Client
from scrapers.optouts.listed import NO_LIST, OptOutList
from scrapers.optouts.signals import Refusal
from scrapers.optouts.tdmrep import NO_RESERVATIONS, TDMREP_PATH, Reservations, TdmRule
from scrapers.plans import Job
from scrapers.politeness import Backoff, HostPace, parse_retry_after
from scrapers.reservations import ask_reservations, is_set_aside
from scrapers.robots import CLOSED, MAX_ROBOTS_BYTES, OPEN, Robots, robots_for_status

logger = logging.getLogger(__name__)

# RFC 9309, 2.4: what a robots.txt said should not be used longer.
ROBOTS_S = 24 * 3600.0
_ROBOTS_ATTEMPTS = 4
# Rules of a TDMRep file of which a first address is asked whether its headers say otherwise.
_MAX_QUESTIONS = 8
# Redirected in circles or to nowhere is as good as no robots.txt (RFC 9309, 2.3.1.2).
_NO_ROBOTS = frozenset({"redirects", "bad_redirect", "redirect_without_location"})


@dataclass
class Host:
    """One origin: scheme, name and port."""

    origin: str
    pace: HostPace
    robots: Robots | None = None
    # What its TDMRep file reserves; and whether it is being asked if a header sets a rule aside.
    reservations: Reservations = NO_RESERVATIONS
    asking: bool = False
    num_questions: int = 0
    # When robots.txt is asked for again, by the crawl's clock; and whether from public addresses only.
    renew_at: float = math.inf
    public_only: bool = False
    # Why nothing more is asked in this run.
    closed: str | None = None
    ready: deque[Job] = field(default_factory=deque)
    loading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    def allows(self, url: str) -> bool:
        """Whether robots.txt, which must be loaded, and the TDMRep file let us ask for `url`."""
        assert self.robots is not None
        return self.robots.policy != "closed" and self.refusal(url) is None

    def refusal(self, url: str) -> Refusal | None:
        """What keeps us from `url` before it is asked for: robots.txt, or the TDMRep file."""
        robots = self.robots
        assert robots is not None
        if not (robots.rules or robots.usage_rules or self.reservations.rules):
            return None
        found = robots.refusal(path_of(url), where=f"{self.origin}/robots.txt")
        if found is not None:
            return found
        rule = self.reserving(url)
        return None if rule is None or rule.set_aside else rule.refusal

    def reserving(self, url: str) -> TdmRule | None:
        """The rule of the TDMRep file that reserves `url`."""
        return self.reservations.reserving(path_of(url)) if self.reservations.rules else None

    def open_question(self, url: str, refusal: Refusal) -> TdmRule | None:
        """The rule that makes this refusal of `url`, if headers may set it aside and were not asked yet."""
        rule = self.reserving(url)
        if rule is None or rule.refusal is not refusal or rule.set_aside is not None:
            return None
        if self.num_questions == _MAX_QUESTIONS:
            rule.set_aside = False
            return None
        return rule


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    end = url.find("/", url.find("://") + 3)
    return url if end < 0 else url[:end]


def path_of(url: str) -> str:
    """What the request line holds: path and query."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


@dataclass(kw_only=True)
class Hosts:
    """All hosts met so far; loads robots.txt and the TDMRep file of each, and once a day again."""

    client: Client
    backoff: Backoff
    rng: random.Random
    max_slots: int
    rate: float | None
    ignore_opt_out: bool
    monotonic: Callable[[], float]
    # The user's own, which holds whatever else is ignored.
    listed: OptOutList = NO_LIST
    _hosts: dict[str, Host] = field(default_factory=dict)

    def of(self, url: str) -> Host:
        """The host of a URL."""
        origin = origin_of(url)
        host = self._hosts.get(origin)
        if host is None:
            pace = HostPace(
                max_slots=self.max_slots,
                rate=self.rate,
                outage=Backoff(base_s=self.backoff.base_s * 2, cap_s=self.backoff.cap_s),
                rng=self.rng,
                now=self.monotonic(),
            )
            unasked = self.ignore_opt_out or self.listed.url_refusal(f"{origin}/") is not None
            host = self._hosts[origin] = Host(origin, pace, OPEN if unasked else None)
        return host

    def all(self) -> list[Host]:
        """Every host, in the order in which they were met."""
        return list(self._hosts.values())

    async def allows(self, url: str, public_only: bool = False) -> bool:
        """Whether nothing keeps us from the URL; loads robots.txt and the TDMRep file where needed.

        `public_only`: from a public address, or not at all.
        """
        if self.listed.url_refusal(url) is not None:
            return False
        host = self.of(url)
        await self.load(host, public_only=public_only)
        refusal = None if host.closed is not None else host.refusal(url)
        if refusal is not None and (rule := host.open_question(url, refusal)) is not None:
            await self.ask_about(host, rule, url)
        return host.allows(url)

    async def allow_hop(self, url: str, public_only: bool = False) -> bool:
        """The same for where a redirect leads; raises FetchError with the refusal, if there is one."""
        if await self.allows(url, public_only):
            return True
        refusal = self.refusal(url)
        if refusal is None:
            return False
        raise FetchError(refusal.reason, str(refusal), refusal=refusal)

    def refusal(self, url: str, *others: str) -> Refusal | None:
        """What keeps us from a URL whose host is loaded; `others` are its other names, for the list."""
        for name in (url, *others):
            if (found := self.listed.url_refusal(name)) is not None:
                return found
        return self.of(url).refusal(url)

    async def ask_about(self, host: Host, rule: TdmRule, url: str) -> None:
        """Ask, once for a rule that reserves, whether headers set it aside where it applies."""
        host.asking = True
        host.num_questions += 1
        try:
            rule.set_aside = await is_set_aside(self.client, url, public_only=host.public_only)
        finally:
            host.asking = False

    async def load(self, host: Host, *, public_only: bool = False) -> None:
        """Make sure that `host.robots` is there; several may wait for it at a time."""
        if host.robots is not None:
            return
        if host.loading is None:
            load = self._load(host, public_only=public_only)
            host.loading = asyncio.get_running_loop().create_task(load)
        await asyncio.shield(host.loading)

    async def _load(self, host: Host, *, public_only: bool) -> None:
        host.public_only = public_only
        robots = host.robots = await self._ask_robots(host)
        host.renew_at = self.monotonic() + ROBOTS_S
        if robots.policy == "closed":
            host.closed = "robots_unreachable"
            logger.warning(
                "%s/robots.txt can't be had: nothing is asked of this host in this run.",
                host.origin,
            )
        if robots.crawl_delay_s is not None:
            host.pace.slow_to(robots.crawl_delay_s)
        await self._load_reservations(host, robots)

    async def _load_reservations(self, host: Host, robots: Robots) -> None:
        if robots.policy != "closed" and robots.allows(TDMREP_PATH):
            host.reservations = await ask_reservations(
                self.client, host.origin, self._waits(), public_only=host.public_only
            )
            host.num_questions = 0

    def _waits(self) -> list[float]:
        """Seconds before each further attempt at what must be had before anything else is asked."""
        return [self.backoff.delay_s(n, self.rng) for n in range(1, _ROBOTS_ATTEMPTS)]

    async def renew_robots(self) -> None:
        """Ask again for each robots.txt that is a day old; one that can't be had stays as it was."""
        for host in self.all():
            if self.monotonic() < host.renew_at:
                continue
            host.renew_at = self.monotonic() + ROBOTS_S
            robots = await self._ask_robots(host)
            if robots.policy == "closed":
                continue
            host.robots = robots
            if robots.crawl_delay_s is not None:
                host.pace.slow_to(robots.crawl_delay_s)
            await self._load_reservations(host, robots)

    async def _ask_robots(self, host: Host) -> Robots:
        url, agent = f"{host.origin}/robots.txt", self.client.user_agent.partition("/")[0]
        for failures in range(1, _ROBOTS_ATTEMPTS + 1):
            wait_s = self.backoff.delay_s(failures, self.rng)
            try:
                answer = await self.client.get(
                    url, max_bytes=4 * MAX_ROBOTS_BYTES, public_only=host.public_only
                )
            except FetchError as error:
                if error.reason in _NO_ROBOTS:
                    return OPEN
                if not error.retry or error.reason == "too_large":
                    return CLOSED
            else:
                robots = robots_for_status(answer.status, answer.body, agent)
                if robots.policy != "closed":
                    return robots
                wait_s = max(
                    wait_s, min(parse_retry_after(answer.retry_after) or 0.0, self.backoff.cap_s)
                )
            if failures < _ROBOTS_ATTEMPTS:
                await asyncio.sleep(wait_s)
        return CLOSED
