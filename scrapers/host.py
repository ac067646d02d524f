"""One host of a crawl: its pace, its robots.txt, the jobs that wait for it, and why it is closed."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field

from scrapers.plans import Job
from scrapers.politeness import HostPace
from scrapers.robots import Robots
from scrapers.web_address import target_of

# Refused by ourselves, for good: asking again would not help.
REFUSED = frozenset({"private_address", "bad_url"})


@dataclass
class Host:
    """One origin: scheme, name and port."""

    origin: str
    pace: HostPace
    robots: Robots | None = None
    # When robots.txt is asked for again, by the crawl's clock; and whether from public addresses only.
    renew_at: float = math.inf
    public_only: bool = False
    # Why nothing more is asked in this run: a word, and a sentence.
    closed: str | None = None
    why: str = ""
    # Until when, by the crawl's clock, a person was told that it waits.
    told_until: float = 0.0
    ready: deque[Job] = field(default_factory=deque)
    # What is asked again after a wait.
    later: dict[Job, asyncio.TimerHandle] = field(default_factory=dict)
    loading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_refused(self) -> bool:
        """Whether it is never asked, in no other run either."""
        return self.closed in REFUSED

    def allows(self, url: str) -> bool:
        """Whether robots.txt, which must be loaded, lets us ask for `url`."""
        assert self.robots is not None
        if self.robots.policy == "open" or (
            self.robots.policy == "rules" and not self.robots.rules
        ):
            return True
        return self.robots.allows(path_of(url))


def path_of(url: str) -> str:
    """What the request line holds: path and query, as they are asked for."""
    start = url.find("://") + 3
    ends = [at for mark in "/?#" if (at := url.find(mark, start)) >= 0]
    return target_of(url[min(ends) :]) if ends else "/"


def time_of_day(from_now_s: float) -> str:
    """The local time so many seconds from now; with its day, if that is another one."""
    try:
        then = time.localtime(time.time() + from_now_s)
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)
