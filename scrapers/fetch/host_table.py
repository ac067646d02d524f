"""The hosts that a crawl remembers: those with work, and as many of the others as memory allows.

A list may name a million hosts. What is known of one (its robots.txt above all) takes about 2 kB, so those
that have not been met for the longest time are forgotten; if they are met again, their robots.txt is loaded
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from scrapers.fetch.host import Host
from scrapers.fetch.robots import CLOSED

# In hosts without rules: about 150 MB.
MAX_WEIGHT = 100_000


class HostTable:
    """Hosts by origin; idle ones are forgotten when all together weigh more than `max_weight`."""

    def __init__(self, clock: Callable[[], float], *, max_weight: int = MAX_WEIGHT) -> None:
        self._clock = clock
        self._max_weight = max_weight
        self._hosts: dict[str, Host] = {}
        self._spelled: dict[str, Host] = {}
        # Those that didn't answer: they are left alone until the end of the run.
        self._given_up: set[str] = set()
        self._grown = 0

    def __len__(self) -> int:
        return len(self._hosts)

    def __iter__(self) -> Iterator[Host]:
        return iter(list(self._hosts.values()))

    def spelled(self, origin: str) -> Host | None:
        """The host that was met with an origin as a URL spells it."""
        host = self._spelled.get(origin)
        if host is not None:
            host.recent = host.wanted = True
        return host

    def find(self, origin: str) -> Host | None:
        """The host of an origin."""
        return self._hosts.get(origin)

    def note_spelling(self, origin: str, host: Host) -> None:
        """Find `host` by this spelling of its origin from now on."""
        host.recent = host.wanted = True
        self._spelled[origin] = host

    def add(self, host: Host) -> None:
        """Add a host that was not found, and forget others if there are too many."""
        if host.origin in self._given_up:
            host.robots, host.closed = CLOSED, "no_answer"
            host.why = f"{host.origin} didn't respond before"
        self.note_growth(host.weight)
        self._hosts[host.origin] = host

    def note_growth(self, weight: int) -> None:
        """Note that a host weighs so much more than before."""
        self._grown += weight
        if self._grown > max(1, self._max_weight // 8):
            self._grown = 0
            self._forget()

    def _forget(self) -> None:
        """Forget idle hosts: at first those that were not met since the last time, the oldest first."""
        excess = sum(host.weight for host in self._hosts.values()) - self._max_weight * 7 // 8
        if excess <= 0:
            return
        now = self._clock()
        idle = [host for host in self._hosts.values() if host.is_idle(now)]
        for host in sorted(idle, key=lambda one: one.recent):
            if excess <= 0:
                break
            excess -= host.weight
            del self._hosts[host.origin]
            if host.closed == "no_answer":
                self._given_up.add(host.origin)
        for host in self._hosts.values():
            host.recent = False
        self._spelled.clear()
