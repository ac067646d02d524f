"""The quick fetcher: kept connections per origin, made and swept here, each one a `Lane`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from scrapers.fetch.budget import Budget
from scrapers.fetch.connecting import open_connection
from scrapers.fetch.connection import SCRATCH_BYTES, Lane
from scrapers.fetch.fetcher import CONNECT_S, Reply, ended_quietly
from scrapers.fetch.request_url import WebAddress
from scrapers.fetch.resolving import Addresses
from scrapers.fetch.response import FetchError

_KEEP_IDLE_S = 15.0


class Lanes:
    """All connections of a client. Make it within the event loop that runs it."""

    def __init__(
        self,
        addresses: Addresses,
        budget: Budget,
        *,
        tls: Callable[[], ssl.SSLContext],
        timeout_s: float,
    ) -> None:
        self.timeout_s = timeout_s
        self.loop = asyncio.get_running_loop()
        self._addresses = addresses
        self.budget = budget
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._lanes: set[Lane] = set()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._timer: asyncio.TimerHandle | None = None
        self._sweep()

    def endpoint(self, address: WebAddress, *, fields: str, public_only: bool) -> LaneEndpoint:
        """See `scrapers.fetch.fetcher.Fetcher`."""
        return LaneEndpoint(self, address, fields, public_only=public_only)

    async def connect(self, address: WebAddress, home: list[Lane], *, public_only: bool) -> Lane:
        """A new connection, which puts itself into `home` whenever it is free."""
        lane = Lane(self._scratch, self.budget, self._lanes.discard, home)
        await open_connection(
            self._addresses,
            address.host,
            address.port,
            lambda: lane,
            public_only=public_only,
            tls=self._context() if address.scheme == "https" else None,
            timeout_s=min(CONNECT_S, self.timeout_s),
        )
        if not lane.free:
            detail = f"{address.host_and_port} closed the connection at once"
            raise FetchError("disconnected", detail, retry=True, sign="down")
        self._lanes.add(lane)
        return lane

    async def close(self) -> None:
        """End all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for lane in list(self._lanes):
            lane.close()
        await asyncio.sleep(0)  # So that their sockets are closed too.

    def _context(self) -> ssl.SSLContext:
        self._tls = self._tls or self._make_tls()
        return self._tls

    def _sweep(self) -> None:
        """Give up answers whose time has come, and connections that nobody used for a while."""
        now = self.loop.time()
        for lane in list(self._lanes):
            if not lane.free and not lane.paused and lane.deadline < now:
                detail = f"no whole answer in {self.timeout_s:g} s"
                lane.fail(FetchError("timeout", detail, retry=True, sign="overload"))
            elif lane.is_quiet(now):
                lane.fail(ended_quietly(lane.quiet_s))
            elif lane.free and lane.deadline - self.timeout_s < now - _KEEP_IDLE_S:
                lane.close()
        self._timer = self.loop.call_later(min(1.0, self.timeout_s / 8), self._sweep)


class LaneEndpoint:
    """One origin and its connections that wait for work."""

    __slots__ = ("_address", "_budget", "_head", "_lanes", "_public_only", "_waiting")

    def __init__(
        self, lanes: Lanes, address: WebAddress, fields: str, *, public_only: bool
    ) -> None:
        self._lanes = lanes
        self._budget = lanes.budget
        self._address = address
        self._head = f" HTTP/1.1\r\nHost: {address.host_and_port}\r\n{fields}"
        self._public_only = public_only
        self._waiting: list[Lane] = []

    async def ask(
        self, target: str, fields: str, max_bytes: int, quiet_s: float | None = None
    ) -> Reply:
        """See `scrapers.fetch.fetcher.Endpoint`."""
        request = f"GET {target}{self._head}{fields}\r\n".encode("utf-8", "surrogateescape")
        deadline = self._lanes.loop.time() + self._lanes.timeout_s
        lane = self._free_lane()
        while True:
            lane = lane or await self._lanes.connect(
                self._address, self._waiting, public_only=self._public_only
            )
            waiting = lane.ask(request, max_bytes, deadline, quiet_s)
            try:
                return await waiting
            except FetchError as error:
                if not error.stale:
                    raise
            except asyncio.CancelledError:
                lane.close()
                raise
            finally:
                # What came has gone on, or is given up.
                self._budget.give_back(waiting)
            # Not on another kept connection: the server may have meant this very request.
            lane = None

    def _free_lane(self) -> Lane | None:
        """The connection used last, if one is free; None if there is none."""
        while self._waiting:
            lane = self._waiting.pop()
            if lane.free:
                return lane
        return None
