"""The hosts of a crawl: the pace, the robots.txt and the waiting jobs of each."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from scrapers.fetch.client import Client
from scrapers.fetch.few_hosts import FewHosts
from scrapers.fetch.host import Host, path_of, time_of_day
from scrapers.fetch.host_table import MAX_WEIGHT, HostTable
from scrapers.fetch.optouts.listed import NO_LIST, OptOutList
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.optouts.tdmrep import TdmRule
from scrapers.fetch.pace import START_SLOTS, Backoff, HostPace
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.reservations import is_set_aside
from scrapers.fetch.response import FetchError
from scrapers.fetch.robots import CLOSED, OPEN
from scrapers.fetch.robots_loading import UNREACHABLE, RobotsLoader, too_long
from scrapers.fetch.sending import SendGate

# Longer waits are logged.
LONG_WAIT_S = 5.0


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
    max_weight: int = MAX_WEIGHT
    # Slots that a host starts with that is met from now on.
    start_slots: int = START_SLOTS

    def __post_init__(self) -> None:
        self.client.gate_of = self._gate_of
        self._few = FewHosts()
        self._known = HostTable(self.monotonic, max_weight=self.max_weight)
        self._outage = Backoff(base_s=self.backoff.base_s * 2, cap_s=self.backoff.cap_s)
        self._loader = RobotsLoader(
            client=self.client,
            backoff=self.backoff,
            rng=self.rng,
            now=self.monotonic,
            max_outage_s=self.max_outage_s,
            few=self._few,
        )

    def _gate_of(self, url: str, more: HostPace | None) -> SendGate:
        """The gate of a request at `url`: its host's pace, and perhaps one more."""
        paces = (self.of(url).pace,) if more is None else (self.of(url).pace, more)
        return SendGate(*paces, now=self.monotonic)

    def of(self, url: str) -> Host:
        """The host of a URL."""
        end = url.find("/", url.find("://") + 3)
        spelled = url if end < 0 else url[:end]
        host = self._known.spelled(spelled)
        if host is None:
            host = self._meet(url)
            self._known.note_spelling(spelled, host)
        return host

    def _meet(self, url: str) -> Host:
        try:
            address = parse_address(url)
        except FetchError as error:
            return self._add(url[:200], refused=error)
        self.client.remember_user(url)
        host = self._known.find(address.origin)
        if host is None:
            host = self._add(address.origin)
            host.public_only = self.guarded and address.host not in self.named
        return host

    def _add(self, origin: str, refused: FetchError | None = None) -> Host:
        pace = HostPace(
            max_slots=self.max_slots,
            rate=self.rate,
            outage=self._outage,
            rng=self.rng,
            now=self.monotonic(),
            slots=self.start_slots,
        )
        unasked = self.ignore_opt_out or self.listed.url_refusal(f"{origin}/") is not None
        host = Host(origin, pace, OPEN if unasked else None)
        if refused is not None:
            host.robots, host.closed, host.why = CLOSED, refused.reason, str(refused)
        self._known.add(host)
        return host

    def all(self) -> list[Host]:
        """Every host that is remembered, in the order in which they were met."""
        return list(self._known)

    async def allows(self, url: str, public_only: bool = False) -> bool:
        """Whether the URL may be requested; loads robots.txt and the TDMRep file if needed.

        `public_only`: from a public address, or not at all.
        """
        return await self._look_at(self.of(url), url, public_only=public_only)

    async def _look_at(self, host: Host, url: str, *, public_only: bool) -> bool:
        if self._listed_refusal(url) is not None:
            return False
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
        host = self.of(url)  # which may be forgotten meanwhile
        if await self._look_at(host, url, public_only=public_only):
            return True
        if (refusal := self.refusal(url, host=host)) is not None:
            raise FetchError(refusal.reason, str(refusal), refusal=refusal)
        raise FetchError(UNREACHABLE, host.why)

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
        before = host.weight
        try:
            await self._loader.load(host)
        finally:
            host.loading = None
        self._known.note_growth(host.weight - before)

    async def renew_robots(self) -> None:
        """Fetch each robots.txt again that is a day old, or failed a minute ago."""
        await self._loader.renew(self._known)

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
        self._few.warn(
            host.origin,
            "%s: longer than --max-outage-s %g. Its other URLs are left for another run.",
            host.why,
            self.max_outage_s,
        )
        return True

    def log_wait(self, host: Host, why: str) -> None:
        """Log which host waits, until when and why, if the wait is long and wasn't logged yet."""
        now = self.monotonic()
        until = max(host.pace.asked_until, host.pace.paused_until)
        if until - now < LONG_WAIT_S or until < host.told_until + LONG_WAIT_S:
            return
        host.told_until = until
        asked = host.pace.asked_until >= until
        self._few.warn(
            host.origin,
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

    def waiting(self, hosts: Iterable[Host]) -> str | None:
        """For the progress line: which of these hosts, that have work, wait long, and until when."""
        now = self.monotonic()
        paces = ((max(host.pace.asked_until, host.pace.paused_until), host) for host in hosts)
        waiting = [(until, h) for until, h in paces if until - now >= LONG_WAIT_S and not h.closed]
        if not waiting:
            return None
        until, host = max(waiting, key=lambda pair: pair[0])
        longest = f"{host.origin} until {time_of_day(until - now)}"
        return longest if len(waiting) == 1 else f"{len(waiting):,} hosts, {longest}"

    def too_long(self, asked_s: float) -> str:
        """For a wait that is too long."""
        return too_long(asked_s, self.max_outage_s)
