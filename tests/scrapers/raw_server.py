"""A server over bare sockets, and a proxy if it is asked as one: what it sends goes out byte for byte."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from scrapers.fetch.client import Client
from scrapers.fetch.proxies import Proxies
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import Response
from scrapers.fetch.sniff import sniff
from tests.helpers.crawls import png

PNG = png("raw", 3000)
FETCHERS = ("connections", "session")


@dataclass
class Heard:
    """A request as it came; `target` as it stood in the request line, without a proxy's origin."""

    raw: bytes
    # Of the connection, counted from 1.
    connection: int
    turn: int

    @property
    def line(self) -> bytes:
        return self.raw.split(b" ")[1]

    @property
    def target(self) -> bytes:
        return re.sub(rb"^https?://[^/]*", b"", self.line)

    def fields(self, name: str) -> list[str]:
        """The values of a header field."""
        lines = self.raw.decode("utf-8", "surrogateescape").split("\r\n")[1:]
        pairs = [line.partition(": ") for line in lines]
        return [value for key, _, value in pairs if key.lower() == name.lower()]


# Gives what is sent, piece by piece; the connection is closed behind it if `closes` says so.
Script = Callable[[Heard], bytes | Iterator[bytes]]


@dataclass
class RawServer:
    """Serves each connection in a thread of its own, until closed."""

    script: Script
    closes: bool = False
    tls: ssl.SSLContext | None = None
    # Answers to CONNECT, as a proxy that leads every tunnel to this port.
    tunnel_to: int = 0
    tunnel_answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    host: str = "127.0.0.1"
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> RawServer:
        self._socket = socket.create_server((self.host, 0), backlog=512)
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def targets(self) -> list[bytes]:
        """What was asked for, in order."""
        return [one.target for one in self.heard]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections += 1
                threading.Thread(
                    target=self._serve, args=(connection, self.connections), daemon=True
                ).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError):
            try:
                if self.tls is not None:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self._speak(connection, number)
            finally:
                connection.close()

    def _speak(self, connection: socket.socket, number: int) -> None:
        turn = 0
        while raw := _read_head(connection):
            turn += 1
            one = Heard(raw, number, turn)
            self.heard.append(one)
            if raw.startswith(b"CONNECT "):
                connection.sendall(self.tunnel_answer)
                if b" 200 " in self.tunnel_answer:
                    _tunnel(connection, self.tunnel_to)
                return
            sent = self.script(one)
            for piece in (sent,) if isinstance(sent, bytes) else sent:
                connection.sendall(piece)
            if self.closes:
                return


def _read_head(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        if not (more := connection.recv(1)):
            return b""
        data += more
    return data


def _tunnel(left: socket.socket, port: int) -> None:
    right = socket.create_connection(("127.0.0.1", port))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    back = threading.Thread(target=pump, args=(right, left), daemon=True)
    back.start()
    pump(left, right)
    back.join(5)
    right.close()


def ok(body: bytes = PNG, *lines: bytes, length: int | None = None) -> bytes:
    """An answer with status 200; `lines` are more of its head."""
    number = len(body) if length is None else length
    head = b"\r\n".join([b"HTTP/1.1 200 OK", b"Content-Length: %d" % number, *lines])
    return head + b"\r\n\r\n" + body


def moved(location: bytes, *lines: bytes, status: int = 302) -> bytes:
    """A redirect."""
    head = [b"HTTP/1.1 %d Moved" % status, b"Content-Length: 0", b"Location: " + location, *lines]
    return b"\r\n".join(head) + b"\r\n\r\n"


def through(server: RawServer) -> Proxies:
    """All that is asked over http goes through this server as a proxy: aiohttp's session does it."""
    return Proxies(by_scheme={"http": parse_address(server.url)}, loopback=True)


def is_image(body: bytes) -> bool:
    return sniff(body).whole


async def get_all(client: Client, *urls: str, **options: object) -> list[Response]:
    """One URL after the other, as images."""
    return [await client.get(url, is_whole=is_image, **options) for url in urls]  # type: ignore[arg-type]
