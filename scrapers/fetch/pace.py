"""The pace of requests to a host: adaptive slots, a rate, pauses, back-off. Pure: time is a parameter.

A host starts with few slots. Each good response adds a fraction of a slot (one per round); 429, 503 and
timeouts halve them; other errors never add any. A host that returns nothing sensible is left alone for
growing pauses and then tried with a single request; one that says how long to wait (`Retry-After`) is left
alone for that long. A host with a `rest_s`, as archives have, gets a rest of that length after each response
that says it had too many requests, and one more each time.

A rate is kept twice: when a request is started, and again when it is written to its connection, which may be
later by as long as connecting takes (`scrapers.fetch.sending`).
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from scrapers.fetch.verdict import HostSign

START_SLOTS = 8
# With many hosts, each starts with fewer slots, so that all together start with about this many.
_START_SLOTS_OF_ALL = 64
# This many failures in a row, without a response in between, are an outage and not bad luck.
OUTAGE_FAILURES = 10


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Delays that double from `base_s` up to `cap_s`, each drawn from its upper half."""

    base_s: float = 0.5
    cap_s: float = 60.0

    def delay_s(self, failures: int, rng: random.Random) -> float:
        """The delay after `failures` ≥ 1 in a row."""
        top = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return top * (0.5 + 0.5 * rng.random())


def parse_retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """The seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), however many.

    Accepts both forms, a number of seconds and an HTTP date; None if there is none or it can't be read.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)


def start_slots(num_hosts: int) -> int:
    """How many slots each of so many hosts starts with: a host with a few images needs one connection."""
    return max(1, min(START_SLOTS, _START_SLOTS_OF_ALL // max(1, num_hosts)))


class HostPace:
    """The pace of one host. Times are seconds of a monotonic clock."""

    __slots__ = (
        "_failures", "_next_start", "_outage", "_rested_at", "_rests", "_rng", "_sent_at", "_slowed_at",
        "_trouble_since", "asked_until", "at_gate", "in_flight", "interval_s", "max_slots", "paused_until",
        "rest_s", "rests_until", "slots", "strikes",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_slots: int,
        rate: float | None,
        outage: Backoff,
        rng: random.Random,
        now: float,
        slots: int = START_SLOTS,
    ) -> None:
        """`slots` is how many it starts with."""
        self.max_slots = max_slots
        self.slots = float(min(slots, max_slots))
        self.in_flight = 0
        self.interval_s = 1.0 / rate if rate else 0.0
        self.strikes = 0
        # The rest after too many requests, if the host doesn't say how long; 0: the pause of an outage.
        self.rest_s = 0.0
        self.rests_until = now
        self._rests = 0
        self._rested_at = now
        # No requests until then: the host's own wish, or the pause of an outage.
        self.asked_until = now
        self.paused_until = now
        self._outage = outage
        self._rng = rng
        self._next_start = now
        # When the last request was written, and how many are ready to be written.
        self._sent_at = -math.inf
        self.at_gate = 0
        self._slowed_at = -1.0
        self._failures = 0
        # The time of the first failure since the last response.
        self._trouble_since = now

    def slow_to(self, interval_s: float) -> None:
        """Leave at least `interval_s` between two requests (robots.txt `Crawl-delay`)."""
        self.interval_s = max(self.interval_s, interval_s)

    def wait_s(self, now: float) -> float | None:
        """Seconds until the next request may start; None while all slots are taken."""
        slots = 1 if self.strikes else int(self.slots)
        if self.in_flight >= slots:
            return None
        until = max(self.asked_until, self.paused_until, self._next_start)
        if self.at_gate:
            until = max(until, self._sent_at + (1 + self.at_gate) * self.interval_s)
        return max(0.0, until - now)

    def send_wait_s(self, now: float) -> float:
        """Seconds until a request that has started may be written to its connection."""
        return max(0.0, self._sent_at + self.interval_s - now) if self.interval_s else 0.0

    def note_sent(self, now: float) -> None:
        """A request has been written."""
        self._sent_at = now

    def start(self, now: float) -> None:
        """A request starts."""
        self.in_flight += 1
        self.count(now)

    def count(self, now: float) -> None:
        """A request starts that takes no slot: the next one has to wait as after any other."""
        if self.interval_s:
            self._next_start = max(now, self._next_start) + self.interval_s

    def is_at_rest(self, now: float) -> bool:
        """Whether it may be forgotten: no request runs, the last one didn't fail, and none has to wait."""
        if self.in_flight or self.at_gate or self._failures:
            return False
        until = max(self.asked_until, self.paused_until, self.rests_until, self._next_start)
        return until <= now and not self.send_wait_s(now)

    def finish(
        self,
        sign: HostSign,
        *,
        started: float,
        now: float,
        retry_after_s: float | None = None,
        answered: bool = False,
    ) -> None:
        """A request that began at `started` ended with `sign`; `answered` if the host itself responded."""
        self.in_flight -= 1
        if sign == "overload" and answered and not retry_after_s:
            retry_after_s = self._next_rest_s(started=started, now=now)
        if sign == "good":
            self._rests = 0
            self.slots = min(self.max_slots, self.slots + 1.0 / self.slots)
        if retry_after_s is not None:
            self.asked_until = max(self.asked_until, now + retry_after_s)
        if sign in ("good", "neutral"):
            self._failures, self.strikes = 0, 0
            return
        if not self._failures:
            self._trouble_since = now
        if sign == "overload" and started >= self._slowed_at:
            # Once per round: responses to requests from before the last halving say nothing new.
            self.slots = max(1.0, self.slots / 2)
            self._slowed_at = now
        self._failures += 1
        if self._failures >= OUTAGE_FAILURES and started >= max(
            self.paused_until, self.asked_until
        ):
            self.strikes += 1
            self.paused_until = max(
                self.paused_until, now + self._outage.delay_s(self.strikes, self._rng)
            )

    def _next_rest_s(self, *, started: float, now: float) -> float | None:
        """One more `rest_s` each time; requests that were in flight when a rest began say nothing new."""
        if not self.rest_s or started < self._rested_at:
            return None
        self._rests += 1
        self._rested_at = now
        self.rests_until = now + self.rest_s * self._rests
        return self.rests_until - now

    def silent_s(self, now: float) -> float:
        """How long an outage will have lasted when the host may be tried again; 0 if there is none."""
        if not self._failures:
            return max(0.0, self.asked_until - now)
        if not self.strikes and self.asked_until <= now:
            return 0.0
        return max(now, self.asked_until) - self._trouble_since
