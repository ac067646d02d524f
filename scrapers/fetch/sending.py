"""Holds a request back until the pace of its host allows sending it.

The crawl starts a request when its turn has come, but connecting takes a while, and not always the same. So
the interval between two requests is counted again here, from the moment when the earlier one was written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from scrapers.fetch.pace import HostPace


class SendGate:
    """The gate of one request: `wait`, write it without awaiting anything, then note it as `sent`."""

    __slots__ = ("_now", "_paces")

    def __init__(self, *paces: HostPace, now: Callable[[], float]) -> None:
        """`now` is the clock of all these paces."""
        self._paces = paces
        self._now = now

    @property
    def wait_s(self) -> float:
        """Seconds until the request may be written."""
        wait_s = 0.0
        for pace in self._paces:
            if pace.interval_s:  # Most hosts have none.
                wait_s = max(wait_s, pace.send_wait_s(self._now()))
        return wait_s

    async def wait(self) -> None:
        """Return when the request may be written."""
        for pace in self._paces:
            pace.at_gate += 1
        try:
            while wait_s := self.wait_s:
                await asyncio.sleep(wait_s)
        finally:
            for pace in self._paces:
                pace.at_gate -= 1

    def sent(self) -> None:
        """The request has been written."""
        now = self._now()
        for pace in self._paces:
            pace.note_sent(now)
