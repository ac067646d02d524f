"""How many hosts are at work at once: whoever finds no free turn lines up for one.

Pure. A turn is a request in flight, or the loading of a robots.txt.
"""

from __future__ import annotations

from collections import deque

from scrapers.fetch.host import Host


class Turns:
    """At most `limit` turns at once, and the hosts that wait for one, each once."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self._queue: deque[Host] = deque()
        self._queued: set[Host] = set()

    @property
    def is_contested(self) -> bool:
        """Whether hosts wait: who has had a turn lines up behind them for the next."""
        return bool(self._queue)

    def take(self, host: Host) -> bool:
        """Take a turn; False if there is none, and `host` is in the line from now on."""
        if self.taken < self.limit:
            self.taken += 1
            return True
        self.line_up(host)
        return False

    def line_up(self, host: Host) -> None:
        """Wait behind the others."""
        if host not in self._queued:
            self._queued.add(host)
            self._queue.append(host)

    def give_back(self) -> None:
        """A turn has ended: see `next_host`."""
        self.taken -= 1

    def next_host(self) -> Host | None:
        """The host whose turn it is now, if there is a free one; it may take it or not."""
        if self.taken >= self.limit or not self._queue:
            return None
        host = self._queue.popleft()
        self._queued.discard(host)
        return host
