"""The system's name resolution in threads of its own: many names at once, however slowly each is answered."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor

from aiohttp.abc import AbstractResolver, ResolveResult

# A name that doesn't exist takes seconds; asyncio's own threads are about as many as the CPUs.
_THREADS = 64
_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV


class SystemResolver(AbstractResolver):
    """`getaddrinfo`, which reads /etc/hosts and asks the name servers of the system."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name. Raises OSError if there is none."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, _look_up, host, port, family)

    async def close(self) -> None:
        """Wait for no lookup."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(
            hostname=host,
            host=_text_of(kind, address),
            port=address[1],
            family=kind,
            proto=protocol,
            flags=_NUMERIC,
        )
        for kind, _, protocol, _, address in found
        if isinstance(address[0], str)
    ]


def _text_of(family: int, address: tuple[str | int, ...]) -> str:
    """The IP address, with the zone of a link-local one."""
    if family == socket.AF_INET6 and address[3]:
        return socket.getnameinfo((str(address[0]), *address[1:]), _NUMERIC_NAME)[0]  # type: ignore[arg-type]
    return str(address[0])
