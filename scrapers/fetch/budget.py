"""One budget for the bytes of all bodies in flight, so that memory doesn't depend on servers.

Each connection takes from it as its body grows; whoever has processed the body gives it back. When nothing is
left, a connection waits with its socket unread, and so does the server. One body at a time may exceed the
budget: it completes whatever the others hold, so that nobody waits forever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

IN_FLIGHT_BYTES = 64 * 2**20


class Holder(Hashable, Protocol):
    """A holder of bytes of a budget."""

    def resume(self) -> None:
        """There may be room now: try again."""


class Budget:
    """`limit` bytes for all; `elsewhere` counts bytes that arrived and are not written yet."""

    def __init__(self, limit: int = IN_FLIGHT_BYTES) -> None:
        self.limit = limit
        self.elsewhere: Callable[[], int] = int
        self._held: dict[Hashable, int] = {}
        self._total = 0
        self._waiting: deque[Holder] = deque()
        self._beyond: Hashable | None = None
        self._waking = False

    def take(self, holder: Holder, number: int) -> bool:
        """Take `number` more bytes; False if `holder` has to wait until it is resumed."""
        elsewhere = self.elsewhere()
        room = self._total + number + elsewhere <= self.limit
        # What waits to be written frees itself, so nobody has to exceed the limit.
        if room or (elsewhere <= self.limit // 2 and self._may_go_beyond(holder)):
            self._held[holder] = self._held.get(holder, 0) + number
            self._total += number
            return True
        self._waiting.append(holder)
        return False

    def hand_over(self, holder: Holder, to: Hashable) -> None:
        """Pass on what `holder` took; another gives it back."""
        if (number := self._held.pop(holder, 0)) or self._beyond is holder:
            self._held[to] = number
            self._beyond = to if self._beyond is holder else self._beyond

    def give_back(self, holder: Hashable) -> None:
        """Give back all that `holder` took; it waits no more."""
        if (number := self._held.pop(holder, 0)) or self._beyond is holder:
            self._total -= number
            self._beyond = None if self._beyond is holder else self._beyond
        if self._waiting:
            self._waiting = deque(one for one in self._waiting if one is not holder)
            self.wake()

    def wake(self) -> None:
        """Let all that wait try again soon, in order."""
        if self._waiting and not self._waking:
            self._waking = True
            # Deferred: what is given back here may count elsewhere in a moment.
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._waking = False
        waiting, self._waiting = self._waiting, deque()
        for holder in waiting:
            holder.resume()

    def _may_go_beyond(self, holder: Holder) -> bool:
        if self._beyond is None:
            self._beyond = holder
        return self._beyond is holder
