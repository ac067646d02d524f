"""One budget for the bytes of all bodies that are on their way, so that memory does not depend on servers.

Each connection takes from it as its body grows and gives back when the body has gone on. Where nothing
is left it waits, its socket unread, and the server with it. One body at a time may go beyond the
budget: whatever the others hold, that one comes to its end, so that nobody waits for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

IN_FLIGHT_BYTES = 64 * 2**20


class Holder(Protocol):
    """Who takes from a budget."""

    def resume(self) -> None:
        """Go on: there may be room now, ask again."""


class Budget:
    """`limit` bytes for all; `elsewhere` are bytes that came and are not written yet."""

    def __init__(self, limit: int = IN_FLIGHT_BYTES) -> None:
        self.limit = limit
        self.elsewhere: Callable[[], int] = int
        self._held: dict[Holder, int] = {}
        self._total = 0
        self._waiting: deque[Holder] = deque()
        self._beyond: Holder | None = None

    def take(self, holder: Holder, number: int) -> bool:
        """Take `number` more bytes; False where `holder` has to wait until it is resumed."""
        room = self._total + number + self.elsewhere() <= self.limit
        if room or self._may_go_beyond(holder):
            self._held[holder] = self._held.get(holder, 0) + number
            self._total += number
            return True
        self._waiting.append(holder)
        return False

    def give_back(self, holder: Holder) -> None:
        """All that `holder` took is free again, and it waits no more."""
        self._total -= self._held.pop(holder, 0)
        if self._beyond is holder:
            self._beyond = None
        if self._waiting:
            self.wake(leaving=holder)

    def wake(self, *, leaving: Holder | None = None) -> None:
        """Let all who wait ask again, the first one first."""
        waiting, self._waiting = self._waiting, deque()
        for holder in waiting:
            if holder is not leaving:
                holder.resume()

    def _may_go_beyond(self, holder: Holder) -> bool:
        if self._beyond is None:
            self._beyond = holder
        return self._beyond is holder
