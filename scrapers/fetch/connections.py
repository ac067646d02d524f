"""The fast fetcher: kept connections per origin, opened and swept here, each one a `Connection`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from scrapers.fetch.budget import Budget
from scrapers.fetch.connecting import open_connection
from scrapers.fetch.connection import SCRATCH_BYTES, Connection
from scrapers.fetch.fetcher import CONNECT_S, Reply, body_stalled
from scrapers.fetch.request_url import WebAddress
from scrapers.fetch.resolving import Addresses
from scrapers.fetch.response import FetchError
from scrapers.fetch.sending import SendGate

_KEEP_IDLE_S = 15.0


class Connections:
    """All connections of a client. Create it inside the event loop that runs it."""

    def __init__(
        self,
        addresses: Addresses,
        budget: Budget,
        *,
        tls: Callable[[], ssl.SSLContext],
        timeout_s: float,
        max_open: int,
    ) -> None:
        """At most `max_open` connections, as long as fewer than that are in use."""
        self.timeout_s = timeout_s
        self._max_open = max_open
        self.loop = asyncio.get_running_loop()
        self._addresses = addresses
        self.budget = budget
        self._make_tls = tls
        self._tls: ssl.SSLContext | None = None
        self._connections: set[Connection] = set()
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._timer: asyncio.TimerHandle | None = None
        self._sweep()

    def endpoint(self, address: WebAddress, *, fields: str, public_only: bool) -> LaneEndpoint:
        """See `scrapers.fetch.fetcher.Fetcher`."""
        return LaneEndpoint(self, address, fields, public_only=public_only)

    async def connect(
        self, address: WebAddress, home: list[Connection], *, public_only: bool
    ) -> Connection:
        """A new connection, which adds itself to `home` whenever it is free."""
        self._make_room()
        connection = Connection(self._scratch, self.budget, self._connections.discard, home)
        await open_connection(
            self._addresses,
            address.host,
            address.port,
            lambda: connection,
            public_only=public_only,
            tls=self._context() if address.scheme == "https" else None,
            timeout_s=min(CONNECT_S, self.timeout_s),
        )
        if not connection.free:
            detail = f"{address.host_and_port} closed the connection at once"
            raise FetchError("disconnected", detail, retry=True, sign="down")
        self._connections.add(connection)
        return connection

    async def close(self) -> None:
        """Close all connections."""
        if self._timer is not None:
            self._timer.cancel()
        for connection in list(self._connections):
            connection.close()
        await asyncio.sleep(0)  # so that their sockets are closed, too

    def _make_room(self) -> None:
        """Close the connections that have been idle the longest, if there are too many."""
        if len(self._connections) < self._max_open:
            return
        idle = sorted((c for c in self._connections if c.free), key=lambda c: c.deadline)
        for connection in idle[: max(1, self._max_open // 8)]:
            connection.close()

    def _context(self) -> ssl.SSLContext:
        self._tls = self._tls or self._make_tls()
        return self._tls

    def _sweep(self) -> None:
        """Give up responses that have timed out, and connections that have been idle for a while."""
        now = self.loop.time()
        for connection in list(self._connections):
            if not connection.free and not connection.paused and connection.deadline < now:
                detail = f"no complete response in {self.timeout_s:g} s"
                connection.fail(FetchError("timeout", detail, retry=True, sign="overload"))
            elif connection.has_stalled(now):
                connection.fail(body_stalled(connection.quiet_s))
            elif connection.free and connection.deadline - self.timeout_s < now - _KEEP_IDLE_S:
                connection.close()
        self._timer = self.loop.call_later(min(1.0, self.timeout_s / 8), self._sweep)


class LaneEndpoint:
    """One origin and its idle connections."""

    __slots__ = ("_address", "_budget", "_connections", "_head", "_public_only", "_waiting")

    def __init__(
        self, connections: Connections, address: WebAddress, fields: str, *, public_only: bool
    ) -> None:
        self._connections = connections
        self._budget = connections.budget
        self._address = address
        self._head = f" HTTP/1.1\r\nHost: {address.host_and_port}\r\n{fields}"
        self._public_only = public_only
        self._waiting: list[Connection] = []

    async def ask(
        self,
        target: str,
        fields: str,
        max_bytes: int,
        *,
        quiet_s: float | None = None,
        gate: SendGate | None = None,
    ) -> Reply:
        """See `scrapers.fetch.fetcher.Endpoint`."""
        request = f"GET {target}{self._head}{fields}\r\n".encode("utf-8", "surrogateescape")
        deadline = self._connections.loop.time() + self._connections.timeout_s
        connection = self._free_connection()
        while True:
            connection = connection or await self._connections.connect(
                self._address, self._waiting, public_only=self._public_only
            )
            if gate is not None and gate.wait_s:
                deadline = await self._wait_at(gate, connection, deadline)
                if not connection.free:  # The server has closed it meanwhile.
                    connection = None
                    continue
            waiting = connection.ask(request, max_bytes, deadline, quiet_s)
            if gate is not None:
                gate.sent()
            try:
                return await waiting
            except FetchError as error:
                if not error.stale:
                    raise
            except asyncio.CancelledError:
                connection.close()
                raise
            finally:
                # Its body has been processed, or is given up.
                self._budget.give_back(waiting)
            # Not on another kept connection: the server may have meant this request.
            connection = None

    async def _wait_at(self, gate: SendGate, connection: Connection, deadline: float) -> float:
        """Wait with a free connection; returns the deadline, later by that time."""
        connection.deadline = deadline  # It counts as idle from now on.
        started = self._connections.loop.time()
        try:
            await gate.wait()
        except asyncio.CancelledError:
            connection.close()
            raise
        return deadline + self._connections.loop.time() - started

    def _free_connection(self) -> Connection | None:
        """The most recently used free connection; None if there is none."""
        while self._waiting:
            connection = self._waiting.pop()
            if connection.free:
                return connection
        return None
