"""When the next job of each host may start: robots.txt first, then by its pace, as long as there are turns.

Hosts wait for their robots.txt, for their pace (a timer), for a free turn among all hosts, or for jobs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from scrapers.crawl.jobs import Job
from scrapers.crawl.recorder import Tally
from scrapers.crawl.turns import Turns
from scrapers.crawl.window import Window
from scrapers.fetch.host import Host
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.optouts.tdmrep import TdmRule
from scrapers.fetch.verdict import Verdict, opt_out

# Of all connections: for requests of images, and for hosts whose robots.txt is being loaded. The rest are for
# redirects, and idle.
_REQUESTS_SHARE = 0.5
_LOADS_SHARE = 0.25
_MAX_REQUESTS = 8192
_LOOK_AGAIN_S = 0.1


class Dispatcher:
    """Starts the jobs of all hosts. Use it inside the event loop."""

    def __init__(
        self,
        hosts: Hosts,
        window: Window,
        tally: Tally,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        work: Callable[[Host, Job], Coroutine[Any, Any, None]],
        settle: Callable[[Job, Verdict], None],
        drop: Callable[[Job], None],
        taken: Callable[[Host], None],
    ) -> None:
        """`work` processes a job and those after it; `settle` and `drop` are for jobs that are not requested.

        `taken` is called whenever a job was taken from a host.
        """
        self.stopped = False
        self._hosts = hosts
        self._window = window
        self._tally = tally
        self._spawn = spawn
        self._work = work
        self._settle = settle
        self._drop = drop
        self._taken = taken
        connections = hosts.client.max_connections
        self._requests = Turns(max(1, min(_MAX_REQUESTS, int(connections * _REQUESTS_SHARE))))
        self._loads = Turns(max(1, int(connections * _LOADS_SHARE)))
        self._loading: set[Host] = set()

    @property
    def is_saturated(self) -> bool:
        """Whether hosts wait for a turn: work for further hosts would wait, too."""
        return self._requests.is_contested

    def add(self, job: Job, *, first: bool = False) -> None:
        """Add a job to those that its host may start; see `wake`."""
        host = self._hosts.of(job.address)
        (host.ready.appendleft if first else host.ready.append)(job)
        self._window.add(host)

    def wake(self, host: Host) -> None:
        """Start as many requests as the host's pace allows now."""
        if host.robots is None:
            if host not in self._loading and self._loads.take(host):
                self._loading.add(host)
                self._spawn(self._load_and_wake(host))
            return
        while (job := self._take(host)) is not None:
            self._spawn(self._work(host, job))

    def next_job(self, host: Host) -> Job | None:
        """The next job for the slot that has just ended one; None if the slot ends, too."""
        if self._requests.is_contested:
            self._requests.line_up(host)
            self._wake_next(self._requests)
            return None
        job = self._take(host)
        if host.pace.in_flight < int(host.pace.slots) and host.ready:
            self.wake(host)
        return job

    def end_request(self) -> None:
        """A job that was taken has been requested: its turn is free."""
        self._requests.give_back()

    async def _ask_about(self, host: Host, rule: TdmRule, url: str) -> None:
        self._tally.requests += 1
        await self._hosts.ask_about(host, rule, url)
        self.wake(host)

    async def _load_and_wake(self, host: Host) -> None:
        try:
            await self._hosts.load(host)
        finally:
            self._loading.discard(host)
            self._loads.give_back()
        self.wake(host)
        self._wake_next(self._loads)

    def _wake_next(self, turns: Turns) -> None:
        """Let hosts that waited for a turn start, as long as there are any."""
        while not self.stopped and (host := turns.next_host()) is not None:
            self.wake(host)

    def _take(self, host: Host) -> Job | None:
        """The next job, with its slot taken; None if none may start now (a timer tries again)."""
        while host.ready and not self.stopped:
            if host.closed is not None:
                job = self._pop(host)
                if host.is_refused:
                    self._settle(job, Verdict("failed", host.closed, False, "neutral"))
                else:
                    self._drop(job)
                continue
            if host.asking:
                # Perhaps for a redirect from another host, whose end doesn't wake this one.
                self._wake_later(host, _LOOK_AGAIN_S)
                return None
            job = host.ready[0]
            if (refusal := self._hosts.refusal(job.address, job.url, host=host)) is not None:
                if (rule := host.open_question(job.address, refusal)) is not None:
                    host.asking = True
                    self._spawn(self._ask_about(host, rule, job.address))
                    return None
                self._settle(self._pop(host), opt_out(refusal))
                continue
            wait_s = host.pace.wait_s(self._hosts.monotonic())
            if wait_s is None:
                return None
            if wait_s > 0:
                self._wake_later(host, wait_s)
                return None
            if not self._requests.take(host):
                return None
            host.pace.start(self._hosts.monotonic())
            return self._pop(host)
        return None

    def _pop(self, host: Host) -> Job:
        job: Job = host.ready.popleft()
        self._window.remove(host)
        self._taken(host)
        return job

    def _wake_later(self, host: Host, wait_s: float) -> None:
        if host.timer is None:
            host.timer = asyncio.get_running_loop().call_later(wait_s, self._on_timer, host)

    def _on_timer(self, host: Host) -> None:
        host.timer = None
        self.wake(host)
