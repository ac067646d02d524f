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

# Refused by us, permanently: trying again would not help.
REFUSED = frozenset({"private_address", "bad_url"})
# Maximum of rules in a TDMRep file for which a first URL is requested to see whether headers override them.
_MAX_QUESTIONS = 8


# Rules of a robots.txt that take as much memory as a host without any.
_RULES_PER_WEIGHT = 4


@dataclass(eq=False, slots=True)
class Host:
    """One origin: scheme, name and port."""

    origin: str
    pace: HostPace
    robots: Robots | None = None
    # The reservations of its TDMRep file; and whether a request is checking if headers override a rule.
    reservations: Reservations = NO_RESERVATIONS
    asking: bool = False
    num_questions: int = 0
    # When robots.txt is fetched again, on the crawl's clock; and whether from public addresses only.
    renew_at: float = math.inf
    public_only: bool = False
    # Why nothing more is requested in this run: a word, and a sentence.
    closed: str | None = None
    why: str = ""
    # Until when, on the crawl's clock, its wait has been logged.
    told_until: float = 0.0
    # What the crawl has for it: jobs that wait, those that wait for a retry, and plans that are not open yet.
    ready: deque[Any] = field(default_factory=deque)
    later: dict[Any, asyncio.TimerHandle] = field(default_factory=dict)
    parked: Any = None
    loading: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    # Whether it was met since hosts were last forgotten, and since its robots.txt was last renewed.
    recent: bool = True
    wanted: bool = True

    @property
    def weight(self) -> int:
        """How much memory it takes, in hosts without rules."""
        robots = 0 if self.robots is None else len(self.robots.rules) + len(self.robots.usage_rules)
        return 1 + (robots + len(self.reservations.rules)) // _RULES_PER_WEIGHT

    def is_idle(self, now: float) -> bool:
        """Whether nothing depends on what is known of it: no job, no request, no pause."""
        busy = self.ready or self.later or self.parked or self.loading or self.timer or self.asking
        return not busy and self.pace.is_at_rest(now)

    @property
    def is_refused(self) -> bool:
        """Whether it is never requested, in no other run either."""
        return self.closed in REFUSED

    def allows(self, url: str) -> bool:
        """Whether robots.txt, which must be loaded, and the TDMRep file allow `url`."""
        assert self.robots is not None
        return self.robots.policy != "closed" and self.refusal(url) is None

    def refusal(self, url: str) -> Refusal | None:
        """What forbids `url` before it is requested: robots.txt, or the TDMRep file."""
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
        """The rule behind this refusal of `url`, if headers may override it and have not been checked yet."""
        rule = self.reserving(url)
        if rule is None or rule.refusal is not refusal or rule.set_aside is not None:
            return None
        if self.num_questions == _MAX_QUESTIONS:
            rule.set_aside = False
            return None
        return rule


def path_of(url: str) -> str:
    """The request target: path and query, as they are requested."""
    start = url.find("://") + 3
    ends = [at for mark in "/?#" if (at := url.find(mark, start)) >= 0]
    return target_of(url[min(ends) :]) if ends else "/"


def time_of_day(from_now_s: float) -> str:
    """The local time in so many seconds; with its date, if that is another day."""
    try:
        then = time.localtime(time.time() + from_now_s)
    except (ValueError, OverflowError, OSError):
        return "a time beyond the calendar"
    today = time.localtime()[:3] == then[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M:%S", then)
