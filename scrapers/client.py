"""One GET at a time over HTTP: the only place that knows aiohttp's client.

aiohttp resolves names, connects, speaks TLS and parses heads; the rest of its session (cookies,
redirects, timers, a stream a body) costs three times as much as a crawl needs, so that requests go
over `Lane`s instead. Limits of size, time and redirects are kept here, and aiohttp's errors become
`FetchError`. Redirects are followed by hand, so that each hop can be refused: never from a public
host to a private one, checked on the addresses that the connector is about to connect to.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_parser import HttpResponseParser

from scrapers.answer import Answer, FetchError
from scrapers.decoding import decode_body
from scrapers.endpoint import Endpoint, exact_url, make_endpoint, split_url
from scrapers.lane import SCRATCH_BYTES, Lane, Parser, Reply
from scrapers.optouts.headers import HeaderSignals, read_headers
from scrapers.redirects import (
    AddressCheck,
    is_public_address,
    redirect_target,
    refuse_private_literal,
)
from scrapers.resolving import PrivateAddressError, PublicResolver
from scrapers.verdict import HostSign

MAX_REDIRECTS = 5
MAX_IMAGE_BYTES = 25 * 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONNECT_S = 15.0
_KEEP_IDLE_S = 15.0
# Streams of aiohttp's pause the connection beyond this size; a lane empties them at once.
_NO_LIMIT = 2**30

# Asked with the address of a redirect and whether only public addresses may be connected to for it.
HopCheck = Callable[[str, bool], Awaitable[bool]]


class Client:
    """Asks politely named and with limits; use as an async context manager.

    Connections are made by aiohttp and kept for the next request to the same origin. `resolver` and
    `is_public` are seams for tests. Certificates are always verified.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout_s: float = 60.0,
        resolver: AbstractResolver | None = None,
        is_public: AddressCheck = is_public_address,
    ) -> None:
        self.user_agent = user_agent
        self.timeout_s = timeout_s
        self._inner_resolver = resolver
        self._is_public = is_public
        self._connectors: dict[bool, tuple[aiohttp.TCPConnector, PublicResolver]] = {}
        self._endpoints: dict[tuple[str, bool], Endpoint] = {}
        self._lanes: set[Lane] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._timeout = aiohttp.ClientTimeout(
            total=timeout_s, sock_connect=min(_CONNECT_S, timeout_s)
        )

    async def __aenter__(self) -> Client:
        self._loop = asyncio.get_running_loop()
        self._inner_resolver = self._inner_resolver or aiohttp.ThreadedResolver()
        self._no_protocol = BaseProtocol(self._loop)
        self._connector(public_only=False)
        self._sweep()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for lane in list(self._lanes):
            lane.close()
        for connector, _ in self._connectors.values():
            await connector.close()
        if self._inner_resolver is not None:
            await self._inner_resolver.close()

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
        allow_hop: HopCheck | None = None,
        public_only: bool = False,
    ) -> Answer:
        """Ask for `url`, following up to five redirects; `allow_hop` may refuse each one.

        `public_only`: connect to public addresses only, as behind a redirect of a public host.
        Raises FetchError where no answer came or it had to be refused.
        """
        public = public_only
        current = url
        for _ in range(MAX_REDIRECTS + 1):
            endpoint, target = self._find(current, public_only=public)
            request = endpoint.request(target, headers)
            deadline = self._loop.time() + self.timeout_s
            lane = endpoint.free_lane() or await self._connect(endpoint)
            try:
                reply = await lane.ask(request, max_bytes, deadline)
            except BaseException:
                lane.close()
                raise
            if reply.status not in _REDIRECTS:
                return self._answer(reply, current, max_bytes)
            location = reply.headers.get("Location")
            if location is None:
                raise FetchError("redirect_without_location", retry=True)
            public = public or self._is_public_host(current)
            current = redirect_target(current, location)
            if public:
                await self._refuse_private(current)
            if allow_hop is not None and not await allow_hop(current, public):
                raise FetchError("robots")
        raise FetchError("redirects", f"more than {MAX_REDIRECTS} redirects", retry=True)

    def _answer(self, reply: Reply, url: str, max_bytes: int) -> Answer:
        status, headers, body = reply
        find = headers.get
        encoding = find("Content-Encoding")
        if encoding is not None and body:
            body = decode_body(body, encoding, max_bytes)
        return Answer(
            status,
            body,
            url,
            etag=find("ETag"),
            last_modified=find("Last-Modified"),
            retry_after=find("Retry-After"),
            signals=self._read_signals(headers, url),
        )

    def _read_signals(self, headers: Any, url: str) -> HeaderSignals:
        agent = self.user_agent.partition("/")[0]
        return read_headers(lambda name: headers.getall(name, ()), agent=agent, url=url)

    def _is_public_host(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        names = self._connectors[False][1].public_names
        return host in names or self._is_public(host)

    async def _refuse_private(self, url: str) -> None:
        """Raise FetchError for a private host before anything, be it its robots.txt, is asked of it."""
        refuse_private_literal(url, self._is_public)
        if (url[: url.find("/", url.find("://") + 3)], True) in self._endpoints:
            return  # Connections there are made to public addresses only.
        self._connector(public_only=True)
        resolver = self._connectors[True][1]
        try:
            await resolver.resolve(urlsplit(url).hostname or "", family=socket.AF_UNSPEC)
        except OSError as error:
            raise translate_error(error) from error

    # --- Connections ------------------------------------------------------------------------------

    def _find(self, url: str, *, public_only: bool) -> tuple[Endpoint, str]:
        """The endpoint that a URL is asked at, and the target that names it there."""
        origin, target = split_url(url)
        endpoint = self._endpoints.get((origin, public_only))
        if endpoint is None or target is None:
            exact = exact_url(url)
            target = exact.raw_path_qs
            if endpoint is None:
                endpoint = make_endpoint(exact, self.user_agent, public_only=public_only)
                self._endpoints[origin, public_only] = endpoint
        return endpoint, target

    async def _connect(self, endpoint: Endpoint) -> Lane:
        connector = self._connector(public_only=endpoint.public_only)
        try:
            request = aiohttp.ClientRequest("GET", endpoint.url, loop=self._loop)
            async with asyncio.timeout(self.timeout_s):
                connection = await connector.connect(request, [], self._timeout)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise translate_error(error) from error
        return self._take_over(connection, endpoint)

    def _take_over(self, connection: aiohttp.connector.Connection, endpoint: Endpoint) -> Lane:
        """Put a lane in the place of aiohttp's protocol, which still hears of the end."""
        handler, transport = connection.protocol, connection.transport
        assert handler is not None

        def lost(error: Exception | None) -> None:
            self._lanes.discard(lane)
            connection.close()
            handler.connection_lost(error)

        lane = Lane(self._scratch, self._make_parser, lost, endpoint.lanes)
        if transport is None or transport.is_closing() or handler.should_close:
            connection.close()
            raise FetchError("disconnected", "closed at once", retry=True, sign="down")
        transport.set_protocol(lane)
        lane.connection_made(transport)
        self._lanes.add(lane)
        return lane

    def _make_parser(self, with_body: bool) -> Parser:
        parser: Parser = HttpResponseParser(
            self._no_protocol,
            self._loop,
            _NO_LIMIT,
            payload_exception=aiohttp.ClientPayloadError,
            response_with_body=with_body,
            read_until_eof=with_body,
            auto_decompress=False,
        )
        return parser

    def _connector(self, *, public_only: bool) -> aiohttp.TCPConnector:
        if public_only not in self._connectors:
            assert self._inner_resolver is not None, "used outside of `async with`"
            resolver = PublicResolver(
                self._inner_resolver, self._is_public, public_only=public_only
            )
            connector = aiohttp.TCPConnector(limit=0, resolver=resolver, ttl_dns_cache=300)
            self._connectors[public_only] = connector, resolver
        return self._connectors[public_only][0]

    def _sweep(self) -> None:
        """Give up answers whose time has come, and connections that nobody used for a while."""
        now = self._loop.time()
        for lane in list(self._lanes):
            if not lane.free and lane.deadline < now:
                detail = f"no whole answer in {self.timeout_s} s"
                lane.fail(FetchError("timeout", detail, retry=True, sign="overload"))
            elif lane.free and lane.deadline - self.timeout_s < now - _KEEP_IDLE_S:
                lane.close()
        self._timer = self._loop.call_later(min(1.0, self.timeout_s / 8), self._sweep)


def translate_error(error: BaseException) -> FetchError:
    """Say in our words what went wrong below."""
    detail = f"{type(error).__name__}: {error}"
    for kinds, reason, retry, sign in _TRANSLATIONS:
        if isinstance(error, kinds):
            return FetchError(reason, detail, retry=retry, sign=sign)
    if isinstance(error, OSError) and _caused_by_private(error):
        return FetchError("redirect_to_private", detail, retry=True)
    return FetchError("connection", detail, retry=True, sign="down")


def _caused_by_private(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, PrivateAddressError):
            return True
        inner = getattr(error, "os_error", None)
        error = (
            inner if isinstance(inner, BaseException) and inner is not error else error.__cause__
        )
    return False


# Tried in order; what is left over is a connection that failed.
_TRANSLATIONS: tuple[tuple[Any, str, bool, HostSign], ...] = (
    (TimeoutError, "timeout", True, "overload"),
    (aiohttp.ClientConnectorCertificateError, "tls", False, "neutral"),
    (aiohttp.ClientConnectorSSLError, "tls", False, "neutral"),
    (ValueError, "bad_url", False, "neutral"),
)
