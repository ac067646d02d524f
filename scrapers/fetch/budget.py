"""One budget for the bytes of all bodies that are on their way, so that memory does not depend on servers.

Each connection takes from it as its body grows; whoever has handed the body on gives it back. Where
nothing is left a connection waits, its socket unread, and the server with it. One body at a time may go
beyond the budget: whatever the others hold, that one comes to its end, so that nobody waits for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

IN_FLIGHT_BYTES = 64 * 2**20


class Holder(Hashable, Protocol):
    """Who takes from a budget."""

    def resume(self) -> None:
        """Go on: there may be room now, ask again."""


class Budget:
    """`limit` bytes for all; `elsewhere` are bytes that came and are not written yet."""

    def __init__(self, limit: int = IN_FLIGHT_BYTES) -> None:
        self.limit = limit
        self.elsewhere: Callable[[], int] = int
        self._held: dict[Hashable, int] = {}
        self._total = 0
        self._waiting: deque[Holder] = deque()
        self._beyond: Hashable | None = None
        self._waking = False

    def take(self, holder: Holder, number: int) -> bool:
        """Take `number` more bytes; False where `holder` has to wait until it is resumed."""
        elsewhere = self.elsewhere()
        room = self._total + number + elsewhere <= self.limit
        # What waits to be written frees itself: then nobody has to go beyond the limit.
        if room or (elsewhere <= self.limit // 2 and self._may_go_beyond(holder)):
            self._held[holder] = self._held.get(holder, 0) + number
            self._total += number
            return True
        self._waiting.append(holder)
        return False

    def hand_over(self, holder: Holder, to: Hashable) -> None:
        """What `holder` took is another's to give back."""
        if (number := self._held.pop(holder, 0)) or self._beyond is holder:
            self._held[to] = number
            self._beyond = to if self._beyond is holder else self._beyond

    def give_back(self, holder: Hashable) -> None:
        """All that `holder` took is free again, and it waits no more."""
        if (number := self._held.pop(holder, 0)) or self._beyond is holder:
            self._total -= number
            self._beyond = None if self._beyond is holder else self._beyond
        if self._waiting:
            self._waiting = deque(one for one in self._waiting if one is not holder)
            self.wake()

    def wake(self) -> None:
        """Let all who wait ask again soon, the first one first."""
        if self._waiting and not self._waking:
            self._waking = True
            # Not now: what is given back here may count elsewhere in a moment.
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
