"""One GET at a time over HTTP: the only place that knows aiohttp's client.

Limits of size, time and redirects are kept here, and aiohttp's errors become `FetchError`. Redirects
are followed by hand, so that each hop can be refused: never from a public host to a private one,
checked on the addresses that the connector is about to connect to.
"""

from __future__ import annotations

import asyncio
import socket
import zlib
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from scrapers.answer import Answer, FetchError
from scrapers.redirects import (
    AddressCheck,
    is_public_address,
    redirect_target,
    refuse_private_literal,
)
from scrapers.verdict import HostSign, find_opt_out

MAX_REDIRECTS = 5
MAX_IMAGE_BYTES = 25 * 2**20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Read in big pieces: aiohttp pauses the socket at twice this size.
_READ_BUFFER_BYTES = 256 * 1024
_PIECE_BYTES = 64 * 1024

_ARCHIVED_ROBOTS_TAG = "X-Archive-Orig-X-Robots-Tag"

HopCheck = Callable[[str], Awaitable[bool]]


class PrivateAddressError(OSError):
    """A name resolved to an address that a public host may not send us to."""


class FixedResolver(AbstractResolver):
    """Every name lives at one address: what `--connect-to HOST:PORT` means."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The fixed address, whatever was asked for."""
        del port
        return [
            ResolveResult(
                hostname=host, host=self.host, port=self.port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        """Nothing is held."""


class _Resolver(AbstractResolver):
    """Resolves through another resolver, and refuses private addresses if `public_only`."""

    def __init__(
        self, inner: AbstractResolver, is_public: AddressCheck, *, public_only: bool
    ) -> None:
        self._inner = inner
        self._is_public = is_public
        self._public_only = public_only
        self.public_names: set[str] = set()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = bool(found) and all(self._is_public(entry["host"]) for entry in found)
        if public:
            self.public_names.add(host)
        elif self._public_only:
            raise PrivateAddressError(f"{host} is at a private address")
        return found

    async def close(self) -> None:
        """The inner resolver belongs to the client, which shares it."""


class Client:
    """Asks politely named and with limits; use as an async context manager.

    `resolver` and `is_public` are seams for tests. Certificates are always verified.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout_s: float = 60.0,
        max_connections: int = 0,
        resolver: AbstractResolver | None = None,
        is_public: AddressCheck = is_public_address,
    ) -> None:
        self.user_agent = user_agent
        self.timeout_s = timeout_s
        self.max_connections = max_connections
        self._inner_resolver = resolver
        self._is_public = is_public
        self._sessions: dict[bool, tuple[aiohttp.ClientSession, _Resolver]] = {}

    async def __aenter__(self) -> Client:
        self._inner_resolver = self._inner_resolver or aiohttp.ThreadedResolver()
        self._session, self._resolver = self._open_session(public_only=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for session, _ in self._sessions.values():
            await session.close()
        if self._inner_resolver is not None:
            await self._inner_resolver.close()

    def _open_session(self, *, public_only: bool) -> tuple[aiohttp.ClientSession, _Resolver]:
        if public_only not in self._sessions:
            assert self._inner_resolver is not None, "used outside of `async with`"
            resolver = _Resolver(self._inner_resolver, self._is_public, public_only=public_only)
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=self.max_connections, resolver=resolver, ttl_dns_cache=300
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(
                    total=self.timeout_s, sock_connect=min(15.0, self.timeout_s)
                ),
                headers={
                    "User-Agent": self.user_agent,
                    "Accept-Encoding": "identity",
                    "Accept": "*/*",
                },
                auto_decompress=False,
                read_bufsize=_READ_BUFFER_BYTES,
            )
            # aiohttp would repeat a request silently; each one is ours to count and to space out.
            session._retry_connection = False
            self._sessions[public_only] = (session, resolver)
        return self._sessions[public_only]

    async def get(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_bytes: int = MAX_IMAGE_BYTES,
        allow_hop: HopCheck | None = None,
    ) -> Answer:
        """Ask for `url`, following up to five redirects; `allow_hop` may refuse each one.

        Raises FetchError where no answer came or it had to be refused.
        """
        try:
            return await self._follow(url, headers, max_bytes, allow_hop)
        except FetchError:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, zlib.error) as error:
            raise translate_error(error) from error

    async def _follow(
        self,
        url: str,
        headers: Mapping[str, str] | None,
        max_bytes: int,
        allow_hop: HopCheck | None,
    ) -> Answer:
        session, public = self._session, False
        current = url
        for hop in range(MAX_REDIRECTS + 1):
            async with session.get(
                _exact_url(current), headers=headers, allow_redirects=False
            ) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response, current if hop else url, max_bytes)
                location = response.headers.get("Location")
            if location is None:
                raise FetchError("redirect_without_location", retry=True)
            public = public or self._is_public_host(current)
            current = redirect_target(current, location)
            if public:
                refuse_private_literal(current, self._is_public)
                session, _ = self._open_session(public_only=True)
            if allow_hop is not None and not await allow_hop(current):
                raise FetchError("robots")
        raise FetchError("redirects", f"more than {MAX_REDIRECTS} redirects", retry=True)

    def _is_public_host(self, url: str) -> bool:
        host = urlsplit(url).hostname or ""
        return host in self._resolver.public_names or self._is_public(host)

    async def _read(self, response: aiohttp.ClientResponse, url: str, max_bytes: int) -> Answer:
        headers = response.headers
        body = b""
        if response.status == 200:
            body = await _read_body(response, max_bytes)
        elif response.status != 304:
            await _drain(response)
        # An archive passes on what the site said when it was recorded.
        tags = [*headers.getall("X-Robots-Tag", ()), *headers.getall(_ARCHIVED_ROBOTS_TAG, ())]
        return Answer(
            status=response.status,
            body=body,
            final_url=url,
            etag=headers.get("ETag"),
            last_modified=headers.get("Last-Modified"),
            retry_after=headers.get("Retry-After"),
            opt_out=find_opt_out(tags, self.user_agent.partition("/")[0]) if tags else None,
        )


async def _read_body(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    length = response.content_length
    if length is not None and length > max_bytes:
        raise FetchError("too_large", f"{length} bytes, at most {max_bytes} are taken", retry=True)
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if length is not None:
        body = await response.read()  # aiohttp reads no more than the Content-Length.
    else:
        body = await _read_up_to(response, max_bytes)
    if encoding in ("", "identity"):
        return body
    return _decode(body, encoding, max_bytes)


async def _read_up_to(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > max_bytes:
            raise FetchError("too_large", f"more than {max_bytes} bytes", retry=True)
        pieces.append(piece)
    return b"".join(pieces)


def _decode(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo a Content-Encoding that was not asked for, never to more than `max_bytes`."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(
            "encoded_body", f"Content-Encoding {encoding}, only identity was asked for", retry=True
        )
    pieces: list[bytes] = []
    room, rest = max_bytes, body
    while rest:  # gzip may have several members, one after the other.
        inflater = zlib.decompressobj(47 if encoding != "deflate" else 15)
        pieces.append(inflater.decompress(rest, room + 1))
        room -= len(pieces[-1])
        if room < 0:
            raise FetchError("too_large", f"inflates to more than {max_bytes} bytes", retry=True)
        if not inflater.eof:
            raise FetchError("truncated", "the encoded body ends early", retry=True)
        rest = inflater.unused_data
    return b"".join(pieces)


async def _drain(response: aiohttp.ClientResponse) -> None:
    """Read a short error body, so that the connection can serve again; drop a long one."""
    length = response.content_length
    if length is None or length > _PIECE_BYTES:
        response.close()
        return
    await response.read()


def _exact_url(url: str) -> URL:
    """The URL with its path as the source wrote it: re-quoting would ask for another object."""
    plain = url.isascii() and url.isprintable() and " " not in url
    try:
        parsed = URL(url, encoded=plain)
    except ValueError as error:
        raise FetchError("bad_url", str(error)) from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise FetchError("bad_url", f"not a web address: {url[:200]!r}")
    return parsed


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
    ((TimeoutError, asyncio.TimeoutError), "timeout", True, "overload"),
    (
        (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError),
        "tls",
        False,
        "neutral",
    ),
    (aiohttp.ServerDisconnectedError, "disconnected", True, "down"),
    (aiohttp.ClientPayloadError, "truncated", True, "neutral"),
    (aiohttp.InvalidURL, "bad_url", False, "neutral"),
    (aiohttp.ClientResponseError, "bad_http", True, "neutral"),
    ((ValueError, zlib.error), "bad_body", True, "neutral"),
)
