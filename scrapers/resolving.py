"""From names to addresses, for the client: one fixed address for all, or public ones only."""

from __future__ import annotations

import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from scrapers.redirects import AddressCheck


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


class PublicResolver(AbstractResolver):
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
        public = [self._is_public(entry["host"]) for entry in found]
        if self._public_only and not all(public):
            raise PrivateAddressError(f"{host} is at a private address")
        if any(public):
            self.public_names.add(host)
        return found

    async def close(self) -> None:
        """The inner resolver belongs to the client, which shares it."""
