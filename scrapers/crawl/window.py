"""The window of a crawl on its plans: how far to read ahead, and which plans wait unopened.

    plans (lazy) → open: jobs, a few for each host
                 → parked: in memory, compressed, in order, for a host that has enough jobs

A list may be sorted by host, and hosts are slow, or down. So reading goes on until every host of the source
has work, or the window is full. A source with a single host is not read ahead.
"""

from __future__ import annotations

from scrapers.crawl.parking import ParkedPlans
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.source import CaptionPlan

# Open jobs, including those that wait for a retry: about 2 kB each.
MAX_OPEN_JOBS = 65_536
MAX_PARKED_BYTES = 128 * 2**20
# Jobs of a host that wait, per slot; and at least, however many hosts there are.
_READY_PER_SLOT = 4
_LEAST_READY = 4


class Window:
    """Counts what waits, and holds the parked plans."""

    def __init__(self, hosts: Hosts, *, num_hosts: int, concurrency: int) -> None:
        """`num_hosts` is how many hosts the plans are on, as far as that is known."""
        self.num_ready = 0
        # Hosts that have jobs to start, or parked plans.
        self.supplied: set[Host] = set()
        self._hosts = hosts
        self._num_hosts = num_hosts
        self._low_mark = max(64, _READY_PER_SLOT * concurrency)
        self._parked_bytes = 0
        self._num_parking = 0

    @property
    def is_empty(self) -> bool:
        """Whether no plan is parked."""
        return not self._num_parking

    def wants_plans(self, num_open: int) -> bool:
        """Whether to read on while so many jobs are open."""
        if num_open >= MAX_OPEN_JOBS or self._parked_bytes >= MAX_PARKED_BYTES:
            return False
        lacks_hosts = 1 < self._num_hosts > len(self.supplied)
        return self.num_ready < self._low_mark or lacks_hosts

    def add(self, host: Host) -> None:
        """A job was added to those that `host` may start."""
        self.num_ready += 1
        self.supplied.add(host)

    def remove(self, host: Host) -> None:
        """A job was taken from them."""
        self.num_ready -= 1
        self._settle(host)

    def park(self, plan: CaptionPlan) -> bool:
        """Keep a plan for later if its host has enough to do; False if it is to be opened now."""
        if self._num_hosts <= 1 or not plan.ranks:
            return False
        host = self._hosts.of(plan.forms[0].url(plan.ranks[0]))
        if host.parked is None:
            if host.closed is not None or len(host.ready) < self._share:
                return False
            host.parked = ParkedPlans()
            self._num_parking += 1
        before = host.parked.size
        host.parked.append(plan)
        self._parked_bytes += host.parked.size - before
        self.supplied.add(host)
        return True

    def is_low(self, host: Host, num_open: int) -> bool:
        """Whether parked plans of `host` are to be opened."""
        if host.parked is None:
            return False
        if num_open >= MAX_OPEN_JOBS:
            return not host.ready and not host.later
        return len(host.ready) <= self._share // 2

    def unpark(self, host: Host) -> CaptionPlan:
        """The next parked plan of `host`."""
        before = host.parked.size
        plan: CaptionPlan = host.parked.popleft()
        self._parked_bytes += host.parked.size - before
        if not host.parked:
            host.parked = None
            self._num_parking -= 1
            self._settle(host)
        return plan

    @property
    def _share(self) -> int:
        """How many jobs may wait at one host."""
        share = MAX_OPEN_JOBS // (len(self.supplied) + 1)
        return min(self._low_mark, max(_LEAST_READY, share))

    def _settle(self, host: Host) -> None:
        if not host.ready and host.parked is None:
            self.supplied.discard(host)
