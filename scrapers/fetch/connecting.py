"""Connections of our own: DNS lookup, socket, TLS. Errors become `FetchError`."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import aiohappyeyeballs

from scrapers.fetch.resolving import Addresses, Found
from scrapers.fetch.trouble import explain

# RFC 8305: the next address is tried if the previous one hasn't responded for so long.
_NEXT_ADDRESS_S = 0.25


async def open_connection(
    addresses: Addresses,
    host: str,
    port: int,
    make_protocol: Callable[[], asyncio.BaseProtocol],
    *,
    public_only: bool,
    tls: ssl.SSLContext | None,
    timeout_s: float,
) -> None:
    """Connect a protocol to `host`. Raises FetchError with the step that failed."""
    place = f"{host}:{port}"
    connect = partial(
        asyncio.get_running_loop().create_connection,
        make_protocol,
        ssl=tls,
        server_hostname=host.removesuffix(".") if tls else None,
    )
    try:
        async with asyncio.timeout(timeout_s):
            found = await addresses.look_up(host, public_only=public_only)
            await _connect_to(found, port, connect)
    except (OSError, ValueError, RuntimeError) as error:
        raise explain(error, place) from error


async def _connect_to(
    found: Sequence[Found], port: int, connect: Callable[..., Awaitable[object]]
) -> None:
    """Connect to the first address that responds."""
    if len(found) == 1:  # Most names; this takes half of the time.
        (entry,) = found
        await connect(host=entry["host"], port=entry["port"] or port)
        return
    infos = [_address(entry, port) for entry in found]
    connected = await aiohappyeyeballs.start_connection(infos, happy_eyeballs_delay=_NEXT_ADDRESS_S)
    try:
        await connect(sock=connected)
    except BaseException:
        connected.close()
        raise


def _address(
    entry: Found, port: int
) -> tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]:
    """In the form of `getaddrinfo`."""
    port = entry["port"] or port
    family = socket.AF_INET6 if ":" in entry["host"] else socket.AF_INET
    name = (entry["host"], port, 0, 0) if family == socket.AF_INET6 else (entry["host"], port)
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", name
