"""The other fetcher: aiohttp's `ClientSession`, for what our own connections can't do.

That is a proxy, with plain requests or CONNECT, and a client certificate. It sends byte for byte what it is
given, keeps no cookies, follows no redirects and undoes no encodings: the client does. Heads are parsed by
`scrapers.fetch.response_head` before aiohttp sees them, so that both fetchers understand the same servers.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import aiohttp
import yarl

from scrapers.fetch.budget import Budget
from scrapers.fetch.fetcher import CONNECT_S, DRAINED_BYTES, Reply, body_stalled, too_large
from scrapers.fetch.request_headers import basic_auth
from scrapers.fetch.request_url import WebAddress
from scrapers.fetch.resolving import Addresses, SessionResolver
from scrapers.fetch.response import FetchError
from scrapers.fetch.response_head import MAX_HEAD_BYTES
from scrapers.fetch.sending import SendGate
from scrapers.fetch.session_head import head_of, parse_heads_ourselves
from scrapers.fetch.trouble import explain

_TUNNEL_REFUSED = 407
# How a connection ends on which nothing arrived.
_CLOSED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_PIECE_BYTES = 64 * 1024


class Sessions:
    """aiohttp's sessions: for any address or public ones only, with our certificate or without."""

    def __init__(
        self,
        addresses: Addresses,
        budget: Budget,
        *,
        tls: Callable[..., ssl.SSLContext],
        timeout_s: float,
        proxy_of: Callable[[WebAddress], WebAddress | None],
        is_own_host: Callable[[WebAddress], bool],
    ) -> None:
        """`tls` creates a context; the hosts that `is_own_host` accepts get our certificate."""
        self.timeout_s = timeout_s
        self.addresses = addresses
        self.budget = budget
        self.proxy_of = proxy_of
        self.is_own_host = is_own_host
        self._make_tls = tls
        self._sessions: dict[tuple[bool, bool, bool], aiohttp.ClientSession] = {}

    def endpoint(self, address: WebAddress, *, fields: str, public_only: bool) -> SessionEndpoint:
        """See `scrapers.fetch.fetcher.Fetcher`."""
        return SessionEndpoint(self, address, fields, public_only=public_only)

    def session(self, *, public_only: bool, as_client: bool, fresh: bool) -> aiohttp.ClientSession:
        """The session for these connections: `fresh` ones are never kept."""
        kind = public_only, as_client, fresh
        if kind not in self._sessions:
            self._sessions[kind] = _make_session(
                SessionResolver(self.addresses, public_only=public_only),
                self._make_tls(as_client=as_client),
                fresh=fresh,
            )
        return self._sessions[kind]

    async def close(self) -> None:
        """Close all connections."""
        for session in self._sessions.values():
            await session.close()


class SessionEndpoint:
    """One origin, requested through a session."""

    def __init__(
        self, sessions: Sessions, address: WebAddress, fields: str, *, public_only: bool
    ) -> None:
        self._sessions = sessions
        self._address = address
        self._fields = fields
        self._public_only = public_only
        self._proxy = sessions.proxy_of(address)
        self._knows_us = sessions.is_own_host(address)

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
        await self._guard()
        pairs = [("Host", self._address.host_and_port), *_pairs(self._fields + fields)]
        ask_once = partial(self._ask_once, target, pairs, max_bytes, quiet_s, gate)
        try:
            return await ask_once(fresh=False)
        except _StaleError:
            # Over a new connection: the server may have meant this request.
            return await ask_once(fresh=True)

    async def _guard(self) -> None:
        """Refuse a private address, behind a proxy, too: aiohttp doesn't resolve IP addresses."""
        if not self._public_only:
            return
        addresses, host = self._sessions.addresses, self._address.host
        try:
            if self._proxy is not None:
                await addresses.refuse_private(host)
            else:
                await addresses.look_up(host, public_only=True)
        except OSError as error:
            raise explain(error, self._address.host_and_port) from error

    async def _ask_once(
        self,
        target: str,
        pairs: list[tuple[str, str]],
        max_bytes: int,
        quiet_s: float | None,
        gate: SendGate | None,
        *,
        fresh: bool,
    ) -> Reply:
        # The user's proxy may be anywhere.
        public_only = self._public_only and self._proxy is None
        session = self._sessions.session(
            public_only=public_only, as_client=self._knows_us, fresh=fresh
        )
        body = Body(self._sessions.budget, self._sessions.timeout_s, quiet_s)
        how = SimpleNamespace(reused=False, answered=False, gate=gate, body=body, written_at=0.0)
        try:
            async with body.deadline, self._get(session, target, pairs, how) as response:
                how.answered = True
                latency_s = asyncio.get_running_loop().time() - how.written_at
                return await self._read(response, body, max_bytes, latency_s)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if how.reused and not how.answered and isinstance(error, _CLOSED):
                raise _StaleError from error
            raise self._explain(error, answered=how.answered) from error
        finally:
            body.give_back()

    def _get(
        self,
        session: aiohttp.ClientSession,
        target: str,
        pairs: list[tuple[str, str]],
        how: SimpleNamespace,
    ) -> Any:
        address, proxy = self._address, self._proxy
        host, port = self._sessions.addresses.fixed or (address.host, address.port)
        is_tunnel = address.scheme == "https"
        return session.get(
            # The target as a path: an empty query would be lost.
            yarl.URL.build(scheme=address.scheme, host=host, port=port, path=target, encoded=True),
            headers=pairs if is_tunnel else [*pairs, *_authorization(proxy).items()],
            allow_redirects=False,
            proxy=None if proxy is None else proxy.origin,
            proxy_headers=_authorization(proxy) if is_tunnel else None,
            server_hostname=address.host.removesuffix(".") if is_tunnel else None,
            trace_request_ctx=how,
        )

    async def _read(
        self, response: aiohttp.ClientResponse, body: Body, max_bytes: int, latency_s: float
    ) -> Reply:
        if response.status == _TUNNEL_REFUSED and self._proxy is not None:
            raise self._refused_by_proxy(response.status)
        head = head_of(response)
        if head.length is not None and head.length > max_bytes and response.status == 200:
            raise too_large(f"{head.length} bytes", max_bytes)
        if response.status == 200:
            data = await body.read(response.content, max_bytes)
        else:
            data = await body.drain(response.content)
        return Reply(response.status, head.headers, data, latency_s, head.codings)

    def _refused_by_proxy(self, status: int) -> FetchError:
        assert self._proxy is not None
        detail = f"the proxy {self._proxy.origin} responds with status {status}"
        if status == _TUNNEL_REFUSED:
            detail += ": it requires a user and a password, http://user:password@…"
        return FetchError("proxy", detail, retry=status >= 500, sign="down")

    def _explain(self, error: BaseException, *, answered: bool) -> FetchError:
        if isinstance(error, aiohttp.ClientHttpProxyError):
            return self._refused_by_proxy(error.status)
        if isinstance(error, aiohttp.ClientPayloadError) or (
            answered and isinstance(error, aiohttp.ClientOSError)
        ):
            return FetchError("truncated", _cause(error), retry=True)
        if isinstance(error, aiohttp.ClientResponseError):
            return FetchError("bad_http", error.message, retry=True)
        if isinstance(error, aiohttp.ServerDisconnectedError):
            detail = "the server closed the connection without a response"
            return FetchError("disconnected", detail, retry=True, sign="down")
        if isinstance(error, TimeoutError):
            detail = f"no complete response in {self._sessions.timeout_s:g} s"
            return FetchError("timeout", detail, retry=True, sign="overload")
        inner: BaseException = getattr(error, "os_error", error)
        inner = getattr(error, "certificate_error", inner)
        if self._proxy is not None and isinstance(error, aiohttp.ClientProxyConnectionError):
            found = explain(inner, self._proxy.host_and_port)
            return FetchError("proxy", f"the proxy: {found}", retry=found.retry, sign=found.sign)
        return explain(inner, self._address.host_and_port)


class _StaleError(Exception):
    """A kept connection had been closed by the server."""


class Body:
    """Reads the body of one response, within the limit, the budget and the time."""

    def __init__(self, budget: Budget, timeout_s: float, quiet_s: float | None = None) -> None:
        self.deadline = asyncio.timeout(timeout_s)
        self._quiet_s = quiet_s
        self._budget = budget
        self._data = bytearray()
        self._room: asyncio.Future[None] | None = None

    async def read(self, content: aiohttp.StreamReader, max_bytes: int) -> bytes:
        """The whole body. Raises FetchError if it is too large."""
        while piece := await self._next(content):
            if len(self._data) + len(piece) > max_bytes:
                raise too_large(f"more than {max_bytes} bytes", max_bytes)
            self._data += piece
            await self._take(len(piece))
        return bytes(self._data)

    async def drain(self, content: aiohttp.StreamReader) -> bytes:
        """Read the body of an error if it is short, so that the connection can be kept; b"" if it is long."""
        data = bytearray()
        async for piece in content.iter_any():
            data += piece
            if len(data) > DRAINED_BYTES:
                return b""
        return bytes(data)

    async def _next(self, content: aiohttp.StreamReader) -> bytes:
        """The next bytes, b"" at the end. Raises FetchError if the body stalls for `quiet_s`."""
        if self._quiet_s is None:
            return await content.readany()
        quiet = asyncio.timeout(self._quiet_s)
        try:
            async with quiet:
                return await content.readany()
        except TimeoutError:
            if quiet.expired():
                raise body_stalled(self._quiet_s) from None
            raise

    def resume(self) -> None:
        """There may be room in the budget."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def give_back(self) -> None:
        """Hold nothing any more."""
        self._data = bytearray()  # Errors keep frames alive, and frames would keep this.
        self._budget.give_back(self)

    async def _take(self, number: int) -> None:
        while not self._budget.take(self, number):
            self._room = asyncio.get_running_loop().create_future()
            await self.not_counting(self._room)

    async def not_counting(self, wait: Awaitable[None]) -> None:
        """Await something; that time doesn't count."""
        loop = asyncio.get_running_loop()
        ends, started = self.deadline.when(), loop.time()
        assert ends is not None
        self.deadline.reschedule(None)
        await wait
        self.deadline.reschedule(ends + loop.time() - started)


def _make_session(
    resolver: SessionResolver, tls: ssl.SSLContext, *, fresh: bool
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        limit=0, resolver=resolver, ssl=tls, use_dns_cache=False, force_close=fresh
    )
    parse_heads_ourselves(connector)
    trace = aiohttp.TraceConfig()
    trace.on_connection_reuseconn.append(_note_reuse)
    trace.on_request_headers_sent.append(_wait_at_gate)
    session = aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        trace_configs=[trace],
        read_bufsize=_PIECE_BYTES,
        max_field_size=2 * MAX_HEAD_BYTES,
    )
    if hasattr(session, "_retry_connection"):
        session._retry_connection = False  # We retry ourselves, once.
    return session


async def _note_reuse(session: object, context: SimpleNamespace, params: object) -> None:
    del session, params
    context.trace_request_ctx.reused = True


async def _wait_at_gate(session: object, context: SimpleNamespace, params: object) -> None:
    """Despite the name of its event, aiohttp calls this right before it writes the request."""
    del session, params
    how = context.trace_request_ctx
    if how.gate is not None:
        if how.gate.wait_s:
            await how.body.not_counting(how.gate.wait())
        how.gate.sent()
    how.written_at = asyncio.get_running_loop().time()


def _authorization(proxy: WebAddress | None) -> dict[str, str]:
    """The user of a proxy, for the proxy only."""
    if proxy is None or proxy.credentials is None:
        return {}
    return {"Proxy-Authorization": basic_auth(proxy.credentials)}


def _pairs(lines: str) -> list[tuple[str, str]]:
    # One spelling for each name: aiohttp lets a second one replace the first.
    spelled: dict[str, str] = {}
    found = []
    for line in lines.split("\r\n"):
        name, colon, value = line.partition(": ")
        if colon:
            found.append((spelled.setdefault(name.lower(), name), value))
    return found


def _cause(error: BaseException) -> str:
    return str(error.__cause__ or error)
