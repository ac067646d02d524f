"""Fetches what each host says about requests: its robots.txt and its TDMRep file."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from scrapers.fetch.client import Client
from scrapers.fetch.few_hosts import FewHosts
from scrapers.fetch.host import REFUSED, Host, time_of_day
from scrapers.fetch.optouts.tdmrep import NO_RESERVATIONS, TDMREP_PATH, Reservations
from scrapers.fetch.pace import Backoff, parse_retry_after
from scrapers.fetch.reservations import ask_reservations
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.robots import CLOSED, MAX_ROBOTS_BYTES, OPEN, Robots, robots_for_status

# RFC 9309, 2.4: a robots.txt should not be used longer than this.
ROBOTS_S = 24 * 3600.0
# One that couldn't be fetched is tried again in the same run.
_CLOSED_S = 60.0
_ROBOTS_ATTEMPTS = 4
_RENEWED_AT_ONCE = 64
# Longer waits are logged.
_LONG_WAIT_S = 5.0
# Redirects in circles or to nowhere are as good as no robots.txt (RFC 9309, 2.3.1.2).
_NO_ROBOTS = frozenset({"redirects", "bad_redirect", "redirect_without_location"})
UNREACHABLE = "robots_unreachable"


class _Trouble(NamedTuple):
    """Why there is no robots.txt; whether, and after what delay, a retry may help."""

    why: str
    retry: bool
    wait_s: float = 0.0
    reason: str = UNREACHABLE


@dataclass(kw_only=True)
class RobotsLoader:
    """Loads robots.txt and the TDMRep file of hosts, and renews them. `now` is the crawl's clock."""

    client: Client
    backoff: Backoff
    rng: random.Random
    now: Callable[[], float]
    max_outage_s: float
    few: FewHosts

    async def load(self, host: Host) -> None:
        """Set `host.robots`, or close the host. Start it once per host."""
        found = await self._ask_robots(host)
        if isinstance(found, Robots):
            await self._take(host, found)
            return
        host.robots, host.closed, host.why = CLOSED, found.reason, found.why
        host.renew_at = math.inf if host.is_refused else self.now() + _CLOSED_S
        self.few.warn(host.origin, "%s. Nothing is requested from this host for now.", host.why)

    async def _reservations(self, host: Host, robots: Robots) -> Reservations:
        if not robots.allows(TDMREP_PATH):
            return NO_RESERVATIONS
        await self._wait_for_pace(host)
        waits = [self.backoff.delay_s(n, self.rng) for n in range(1, _ROBOTS_ATTEMPTS)]
        return await ask_reservations(
            self.client,
            host.origin,
            waits,
            public_only=host.public_only,
            known=host.reservations,
        )

    async def renew(self, hosts: Iterable[Host]) -> None:
        """Fetch each robots.txt again that is a day old, or failed a minute ago, if the host was met since.

        One that can't be fetched stays as it was.
        """
        due = iter([host for host in hosts if host.wanted and self.now() >= host.renew_at])
        await asyncio.gather(*(self._renew_each(due) for _ in range(_RENEWED_AT_ONCE)))

    async def _renew_each(self, due: Iterator[Host]) -> None:
        for host in due:
            host.wanted = False
            host.renew_at = self.now() + (ROBOTS_S if host.closed is None else _CLOSED_S)
            robots = await self._ask_robots(host, quiet=True)
            if isinstance(robots, Robots):
                await self._take(host, robots)
                host.closed = None if host.closed == UNREACHABLE else host.closed

    async def _take(self, host: Host, robots: Robots) -> None:
        """Load the TDMRep file, too: once `robots` is set the host is ready."""
        if robots.crawl_delay_s is not None:
            host.pace.slow_to(robots.crawl_delay_s)
        host.reservations = await self._reservations(host, robots)
        host.num_questions = 0
        host.robots = robots
        host.renew_at = self.now() + ROBOTS_S

    async def _wait_for_pace(self, host: Host) -> None:
        """These requests count like any other, but take no slot."""
        await asyncio.sleep(host.pace.wait_s(self.now()) or 0.0)
        host.pace.count(self.now())

    async def _ask_robots(self, host: Host, *, quiet: bool = False) -> Robots | _Trouble:
        """robots.txt, or why it can't be fetched after a few attempts."""
        trouble = None
        for failures in range(1, _ROBOTS_ATTEMPTS + 1):
            if trouble is not None:
                wait_s = max(self.backoff.delay_s(failures - 1, self.rng), trouble.wait_s)
                if not quiet and (failures == 2 or wait_s > _LONG_WAIT_S):
                    self.few.warn(host.origin, "%s. Trying again in %.1f s.", trouble.why, wait_s)
                await asyncio.sleep(wait_s)
            found = await self._try_robots(host)
            if isinstance(found, Robots) or not found.retry:
                return found
            trouble = found
        assert trouble is not None
        return trouble

    async def _try_robots(self, host: Host) -> Robots | _Trouble:
        await self._wait_for_pace(host)
        try:
            response = await self.client.get(
                f"{host.origin}/robots.txt",
                max_bytes=4 * MAX_ROBOTS_BYTES,
                public_only=host.public_only,
            )
        except FetchError as error:
            if error.reason in _NO_ROBOTS:
                return OPEN
            return _Trouble(
                f"{host.origin} can't be reached: {error}",
                error.retry and error.reason != "too_large",
                reason=error.reason if error.reason in REFUSED else UNREACHABLE,
            )
        agent = self.client.user_agent.partition("/")[0]
        robots = robots_for_status(response.status, response.body, agent)
        return robots if robots.policy != "closed" else self._no_robots(host, response)

    def _no_robots(self, host: Host, response: Response) -> _Trouble:
        why = f"{host.origin}/robots.txt can't be fetched: status {response.status}"
        wait_s = parse_retry_after(response.retry_after) or 0.0
        if wait_s > self.max_outage_s:
            why = f"{why}; {too_long(wait_s, self.max_outage_s)}"
        return _Trouble(why, wait_s <= self.max_outage_s, wait_s=wait_s)


def too_long(asked_s: float, max_outage_s: float) -> str:
    """For a wait that is too long."""
    return (
        f"it asks us to wait until {time_of_day(asked_s)}, longer than --max-outage-s "
        f"{max_outage_s:g}"
    )
