"""One host of a crawl: its pace, its robots.txt and TDMRep file, its jobs, and why it is closed."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.optouts.tdmrep import NO_RESERVATIONS, Reservations, TdmRule
from scrapers.fetch.pace import HostPace
from scrapers.fetch.request_url import target_of
from scrapers.fetch.robots import Robots

# Refused by ourselves, for good: asking again would not help.
REFUSED = frozenset({"private_address", "bad_url"})
# Rules of a TDMRep file of which a first URL is asked whether its headers say otherwise.
_MAX_QUESTIONS = 8


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
    # Why nothing more is asked in this run: a word, and a sentence.
    closed: str | None = None
    why: str = ""
    # Until when, by the crawl's clock, a person was told that it waits.
    told_until: float = 0.0
    ready: deque[Any] = field(default_factory=deque)
    # What is asked again after a wait.
    later: dict[Any, asyncio.TimerHandle] = field(default_factory=dict)
    loading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_refused(self) -> bool:
        """Whether it is never asked, in no other run either."""
        return self.closed in REFUSED

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
