"""The hosts of a crawl: the pace, the robots.txt and the waiting jobs of each."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from scrapers.fetch.client import Client
from scrapers.fetch.host import REFUSED, Host, path_of, time_of_day
from scrapers.fetch.optouts.listed import NO_LIST, OptOutList
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.optouts.tdmrep import NO_RESERVATIONS, TDMREP_PATH, Reservations, TdmRule
from scrapers.fetch.pace import Backoff, HostPace, parse_retry_after
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.reservations import ask_reservations, is_set_aside
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.robots import CLOSED, MAX_ROBOTS_BYTES, OPEN, Robots, robots_for_status

logger = logging.getLogger(__name__)

# RFC 9309, 2.4: a robots.txt should not be used longer than this.
ROBOTS_S = 24 * 3600.0
# One that couldn't be fetched is tried again in the same run.
_CLOSED_S = 60.0
_ROBOTS_ATTEMPTS = 4
# Longer waits are logged.
_LONG_WAIT_S = 5.0
# Redirects in circles or to nowhere are as good as no robots.txt (RFC 9309, 2.3.1.2).
_NO_ROBOTS = frozenset({"redirects", "bad_redirect", "redirect_without_location"})
_UNREACHABLE = "robots_unreachable"


class _Trouble(NamedTuple):
    """Why there is no robots.txt; whether, and after what delay, a retry may help."""

    why: str
    retry: bool
    wait_s: float = 0.0
    reason: str = _UNREACHABLE


@dataclass(kw_only=True)
class Hosts:
    """All hosts met so far; loads robots.txt and the TDMRep file of each, again once a day.

    `guarded`: the URLs were named by a page on the public internet, so only `named` hosts, which the user
    gave, may be at a private address.
    """

    client: Client
    backoff: Backoff
    rng: random.Random
    max_slots: int
    rate: float | None
    ignore_opt_out: bool
    monotonic: Callable[[], float]
    max_outage_s: float = 300.0
    guarded: bool = False
    named: frozenset[str] = frozenset()
    # The user's own list, which applies whatever else is ignored.
    listed: OptOutList = NO_LIST
    _hosts: dict[str, Host] = field(default_factory=dict)
    _spelled: dict[str, Host] = field(default_factory=dict)

    def of(self, url: str) -> Host:
        """The host of a URL."""
        end = url.find("/", url.find("://") + 3)
        spelled = url if end < 0 else url[:end]
        host = self._spelled.get(spelled)
        if host is None:
            host = self._spelled[spelled] = self._meet(url)
        return host

    def _meet(self, url: str) -> Host:
        try:
            address = parse_address(url)
        except FetchError as error:
            return self._add(url[:200], refused=error)
        self.client.remember_user(url)
        host = self._hosts.get(address.origin)
        if host is None:
            host = self._add(address.origin)
            host.public_only = self.guarded and address.host not in self.named
        return host

    def _add(self, origin: str, refused: FetchError | None = None) -> Host:
        pace = HostPace(
            max_slots=self.max_slots,
            rate=self.rate,
            outage=Backoff(base_s=self.backoff.base_s * 2, cap_s=self.backoff.cap_s),
            rng=self.rng,
            now=self.monotonic(),
        )
        unasked = self.ignore_opt_out or self.listed.url_refusal(f"{origin}/") is not None
        host = self._hosts[origin] = Host(origin, pace, OPEN if unasked else None)
        if refused is not None:
            host.robots, host.closed, host.why = CLOSED, refused.reason, str(refused)
        return host

    def all(self) -> list[Host]:
        """Every host, in the order in which they were met."""
        return list(self._hosts.values())

    async def allows(self, url: str, public_only: bool = False) -> bool:
        """Whether the URL may be requested; loads robots.txt and the TDMRep file if needed.

        `public_only`: from a public address, or not at all.
        """
        if self._listed_refusal(url) is not None:
            return False
        host = self.of(url)
        await self.load(host, public_only=public_only)
        refusal = None if host.closed is not None else host.refusal(url)
        if refusal is not None and (rule := host.open_question(url, refusal)) is not None:
            await self.ask_about(host, rule, url)
        return host.allows(url)

    async def allow_hop(self, url: str, public_only: bool = False) -> bool:
        """The same for the target of a redirect.

        Raises FetchError with the refusal if there is one, or if it can't be known now.
        """
        if self.ignore_opt_out and self._listed_refusal(url) is None:
            return True
        if await self.allows(url, public_only):
            return True
        if (refusal := self.refusal(url)) is not None:
            raise FetchError(refusal.reason, str(refusal), refusal=refusal)
        raise FetchError(_UNREACHABLE, self.of(url).why)

    def refusal(self, url: str, *others: str, host: Host | None = None) -> Refusal | None:
        """What forbids a URL whose `host` is loaded; `others` are its other names, for the list."""
        if self.listed:
            for name in (url, *others):
                if (found := self._listed_refusal(name)) is not None:
                    return found
        return (host or self.of(url)).refusal(url)

    def why_not(self, url: str) -> str:
        """Why a forbidden URL, whose host is loaded, is not requested: the start of a sentence."""
        host, refusal = self.of(url), self.refusal(url)
        if host.closed is not None or refusal is None:
            return host.why
        if refusal.signal == "robots.txt":
            return f"{host.origin}/robots.txt does not allow {url}"
        return f"{url} is opted out ({refusal})"

    def _listed_refusal(self, url: str) -> Refusal | None:
        """What the user's list says about a URL, as it is spelled and as it is requested."""
        if not self.listed:
            return None
        spelled = self.listed.url_refusal(url)
        return spelled or self.listed.url_refusal(f"{self.of(url).origin}{path_of(url)}")

    async def ask_about(self, host: Host, rule: TdmRule, url: str) -> None:
        """Check once per reserving rule whether headers override it."""
        host.asking = True
        host.num_questions += 1
        try:
            rule.set_aside = await is_set_aside(self.client, url, public_only=host.public_only)
        finally:
            host.asking = False

    async def load(self, host: Host, *, public_only: bool = False) -> None:
        """Make sure that `host.robots` is set; several callers may wait for it at once."""
        if host.robots is not None:
            return
        if host.loading is None:
            host.public_only = host.public_only or public_only
            host.loading = asyncio.get_running_loop().create_task(self._load(host))
        await asyncio.shield(host.loading)

    async def _load(self, host: Host) -> None:
        found = await self._ask_robots(host)
        if isinstance(found, Robots):
            await self._take(host, found)
            return
        host.robots, host.closed, host.why = CLOSED, found.reason, found.why
        host.renew_at = math.inf if host.is_refused else self.monotonic() + _CLOSED_S
        logger.warning("%s. Nothing is requested from this host for now.", host.why)

    async def _reservations(self, host: Host, robots: Robots) -> Reservations:
        if not robots.allows(TDMREP_PATH):
            return NO_RESERVATIONS
        waits = [self.backoff.delay_s(n, self.rng) for n in range(1, _ROBOTS_ATTEMPTS)]
        return await ask_reservations(
            self.client,
            host.origin,
            waits,
            public_only=host.public_only,
            known=host.reservations,
        )

    async def renew_robots(self) -> None:
        """Fetch each robots.txt again that is a day old, or failed a minute ago.

        One that can't be fetched stays as it was.
        """
        for host in self.all():
            if self.monotonic() < host.renew_at:
                continue
            host.renew_at = self.monotonic() + (ROBOTS_S if host.closed is None else _CLOSED_S)
            robots = await self._ask_robots(host, quiet=True)
            if isinstance(robots, Robots):
                await self._take(host, robots)
                host.closed = None if host.closed == _UNREACHABLE else host.closed

    async def _take(self, host: Host, robots: Robots) -> None:
        """Load the TDMRep file, too: once `robots` is set the host is ready."""
        if robots.crawl_delay_s is not None:
            host.pace.slow_to(robots.crawl_delay_s)
        host.reservations = await self._reservations(host, robots)
        host.num_questions = 0
        host.robots = robots
        host.renew_at = self.monotonic() + ROBOTS_S

    async def _ask_robots(self, host: Host, *, quiet: bool = False) -> Robots | _Trouble:
        """robots.txt, or why it can't be fetched after a few attempts."""
        trouble = None
        for failures in range(1, _ROBOTS_ATTEMPTS + 1):
            if trouble is not None:
                wait_s = max(self.backoff.delay_s(failures - 1, self.rng), trouble.wait_s)
                if not quiet and (failures == 2 or wait_s > _LONG_WAIT_S):
                    logger.warning("%s. Trying again in %.1f s.", trouble.why, wait_s)
                await asyncio.sleep(wait_s)
            found = await self._try_robots(host)
            if isinstance(found, Robots) or not found.retry:
                return found
            trouble = found
        assert trouble is not None
        return trouble

    async def _try_robots(self, host: Host) -> Robots | _Trouble:
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
                reason=error.reason if error.reason in REFUSED else _UNREACHABLE,
            )
        agent = self.client.user_agent.partition("/")[0]
        robots = robots_for_status(response.status, response.body, agent)
        return robots if robots.policy != "closed" else self._no_robots(host, response)

    def _no_robots(self, host: Host, response: Response) -> _Trouble:
        why = f"{host.origin}/robots.txt can't be fetched: status {response.status}"
        wait_s = parse_retry_after(response.retry_after) or 0.0
        if wait_s > self.max_outage_s:
            why = f"{why}; {self.too_long(wait_s)}"
        return _Trouble(why, wait_s <= self.max_outage_s, wait_s=wait_s)

    # --- Waiting ----------------------------------------------------------------------------------

    def close_if_down(self, host: Host, why: str) -> bool:
        """Close a host whose outage lasts, or would last, longer than `max_outage_s`, and log it."""
        now = self.monotonic()
        silent_s = host.pace.silent_s(now)
        if silent_s <= self.max_outage_s or host.closed is not None:
            return host.closed is not None
        host.closed = "no_answer"
        left_s = host.pace.asked_until - now
        asked = f", and asks us to wait until {time_of_day(left_s)}" if left_s > 0 else ""
        host.why = f"{host.origin} doesn't respond ({why}{asked})"
        logger.warning(
            "%s: longer than --max-outage-s %g. Its other URLs are left for another run.",
            host.why,
            self.max_outage_s,
        )
        return True

    def log_wait(self, host: Host, why: str) -> None:
        """Log which host waits, until when and why, if the wait is long and wasn't logged yet."""
        now = self.monotonic()
        until = max(host.pace.asked_until, host.pace.paused_until)
        if until - now < _LONG_WAIT_S or until < host.told_until + _LONG_WAIT_S:
            return
        host.told_until = until
        asked = host.pace.asked_until >= until
        logger.warning(
            "%s %s: no requests until %s (%s).",
            host.origin,
            "got too many requests"
            if host.pace.rests_until >= until
            else "asks us to wait"
            if asked
            else "doesn't respond",
            time_of_day(until - now),
            why,
        )

    def waiting(self) -> str | None:
        """For the progress line: the host that waits longest and until when; None if none does."""
        now = self.monotonic()
        paces = [(max(h.pace.asked_until, h.pace.paused_until), h) for h in self.all() if h.ready]
        until, host = max(paces, key=lambda pair: pair[0], default=(now, None))
        if host is None or until - now < _LONG_WAIT_S or host.closed is not None:
            return None
        return f"{host.origin} until {time_of_day(until - now)}"

    def too_long(self, asked_s: float) -> str:
        """For a wait that is too long."""
        return (
            f"it asks us to wait until {time_of_day(asked_s)}, longer than --max-outage-s "
            f"{self.max_outage_s:g}"
        )
