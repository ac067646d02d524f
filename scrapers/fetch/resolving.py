"""Name resolution for all connections: a public page must not lead to a private host.

A name that once resolved to public addresses stays public: later it is connected to at such addresses only,
so that a name server can't redirect us inside with its second answer (DNS rebinding). Connections use the
very addresses that were checked. Of a million names the latest are remembered.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from scrapers.fetch.recent import Recent
from scrapers.fetch.redirects import AddressCheck
from scrapers.fetch.system_resolver import SystemResolver

# The resolver's interface, and one of the addresses of a name.
Resolver = AbstractResolver
Found = ResolveResult

_REMEMBER_S = 300.0
# Long enough for all that ask for a name at once, short enough for a later attempt to ask again.
_REMEMBER_FAILURE_S = 2.0
# About 1 kB each.
MAX_NAMES = 50_000
# Of names whose first addresses were public, and the like.
_MAX_KINDS = 200_000
# A machine that reaches the web through a proxy often has no working name server.
_LOOK_S = 2.0


class PrivateAddressError(OSError):
    """A name, or an address, that a public host must not send us to."""


class FixedResolver(AbstractResolver):
    """Every name has one address: `--connect-to HOST:PORT`."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The fixed address, whatever the name."""
        del host, port
        if is_literal(self.host):
            return [_literal(self.host, self.port)]
        return await aiohttp.ThreadedResolver().resolve(self.host, self.port, family)

    async def close(self) -> None:
        """Nothing to release."""


class _Known(NamedTuple):
    until: float
    found: list[ResolveResult] | OSError


class Addresses:
    """Resolves names, each once for all callers, and caches them for a while.

    `inner` does the lookups, by default the system's resolver. Create it inside the event loop.
    """

    def __init__(
        self,
        inner: Resolver | None,
        is_public: AddressCheck,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner if inner is not None else SystemResolver()
        self._is_public = is_public
        self._clock = clock
        self._known: Recent[str, _Known] = Recent(MAX_NAMES)
        self._asking: dict[str, asyncio.Task[list[ResolveResult]]] = {}
        # Names that resolved to a public address; names that first resolved to nothing else.
        self._public: Recent[str, None] = Recent(_MAX_KINDS)
        self._pinned: Recent[str, None] = Recent(_MAX_KINDS)
        self._behind_proxy: Recent[str, None] = Recent(_MAX_KINDS)

    @property
    def fixed(self) -> tuple[str, int] | None:
        """The one address of all hosts, if there is one."""
        inner = self._inner
        return (inner.host, inner.port) if isinstance(inner, FixedResolver) else None

    async def look_up(self, host: str, *, public_only: bool) -> list[ResolveResult]:
        """The addresses of a name, or of an IP address itself.

        Raises PrivateAddressError if only public ones may be used and there is none, OSError if there is no
        such name.
        """
        found = await self._find(host)
        public = [entry for entry in found if self._is_public(entry["host"])]
        if public:
            self._public[host] = None
        if not public_only and host not in self._pinned:
            if len(public) == len(found):
                self._pinned[host] = None
            return found
        if not public:
            places = ", ".join(entry["host"] for entry in found[:3])
            raise PrivateAddressError(f"{host} is at a private address ({places})")
        return public

    async def is_public(self, host: str) -> bool:
        """Whether a host is on the public internet; one that can't be resolved here counts as public."""
        if host not in self._public:
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self.look_up(host, public_only=False)
            except OSError:
                self._public[host] = None
        return host in self._public

    async def refuse_private(self, host: str) -> None:
        """Raise PrivateAddressError for a name that a proxy would resolve, as far as it can be seen here."""
        if host in self._behind_proxy:
            return
        try:
            async with asyncio.timeout(_LOOK_S):
                await self.look_up(host, public_only=True)
        except PrivateAddressError:
            raise
        except OSError:
            pass  # Names that can't be resolved here are the proxy's business.
        self._behind_proxy[host] = None

    async def close(self) -> None:
        """Cancel all lookups."""
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        await self._inner.close()

    async def _find(self, host: str) -> list[ResolveResult]:
        if self.fixed is None and is_literal(host):
            return [_literal(host)]
        known = self._known.get(host)
        if known is not None and self._clock() < known.until:
            if isinstance(known.found, OSError):
                raise known.found.with_traceback(None)
            return known.found
        task = self._asking.get(host)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(host))
            self._asking[host] = task
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return await asyncio.shield(task)

    async def _ask(self, host: str) -> list[ResolveResult]:
        try:
            found = await self._inner.resolve(host, 0, socket.AF_UNSPEC)
        except OSError as error:
            self._known[host] = _Known(self._clock() + _REMEMBER_FAILURE_S, error)
            raise
        self._known[host] = _Known(self._clock() + _REMEMBER_S, found)
        return found


class SessionResolver(AbstractResolver):
    """The same for aiohttp's own connections."""

    def __init__(self, addresses: Addresses, *, public_only: bool) -> None:
        self._addresses = addresses
        self._public_only = public_only

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`, with this port unless one is fixed."""
        del family
        found = await self._addresses.look_up(host, public_only=self._public_only)
        return [ResolveResult(**{**entry, "port": entry["port"] or port}) for entry in found]

    async def close(self) -> None:
        """The client owns the resolver."""


def is_literal(host: str) -> bool:
    """Whether a host is an IP address."""
    if ":" not in host and not host[-1:].isdecimal():
        return False  # Most names; the rest is much slower.
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _literal(host: str, port: int = 0) -> ResolveResult:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return ResolveResult(
        hostname=host, host=host, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )
