"""Bodies that end early on a connection that is held open, and bodies of errors, over both fetchers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from scrapers.fetch.client import Client
from scrapers.fetch.response import FetchError, Response
from tests.scrapers.raw_server import FETCHERS, PNG, Heard, RawServer, through

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PNG)
CHUNK = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n" + PNG[:50]
NEVER_S = 5.0


def get(server: RawServer, fetcher: str, quiet_s: float | None = 0.4) -> Response:
    async def ask() -> Response:
        proxies = through(server) if fetcher == "session" else None
        client = Client(user_agent="x/1", timeout_s=NEVER_S, proxies=proxies)
        async with client:
            return await client.get(f"{server.url}/a.png", quiet_s=quiet_s)

    return asyncio.run(ask())


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("begun", [HEAD + PNG[:300], HEAD, CHUNK], ids=["part", "none", "chunk"])
def test_a_body_that_goes_quiet_is_truncated(begun: bytes, fetcher: str) -> None:
    def script(_: Heard) -> Iterator[bytes]:
        yield begun
        time.sleep(NEVER_S + 1)

    with RawServer(script) as server:
        started = time.monotonic()
        with pytest.raises(FetchError) as caught:
            get(server, fetcher)
        assert time.monotonic() - started < NEVER_S - 1
    assert (caught.value.reason, caught.value.retry) == ("truncated", False)


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_slow_start_and_a_slow_body_are_waited_for(fetcher: str) -> None:
    def script(_: Heard) -> Iterator[bytes]:
        time.sleep(0.8)
        yield HEAD
        for at in range(0, len(PNG), 600):
            time.sleep(0.15)
            yield PNG[at : at + 600]

    with RawServer(script) as server:
        assert get(server, fetcher).body == PNG


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (b"HTTP/1.1 403 No\r\nContent-Length: 3\r\n\r\nwhy", b"why"),
        (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nwhy\r\n0\r\n\r\n", b"why"),
        (
            b"HTTP/1.1 403 No\r\nContent-Length: 3\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\x08",
            b"",
        ),
        (b"HTTP/1.1 403 No\r\nContent-Length: 70000\r\n\r\n" + b"y" * 70_000, b""),
    ],
    ids=["length", "chunked", "unreadable", "long"],
)
def test_an_error_may_say_why(sent: bytes, body: bytes, fetcher: str) -> None:
    with RawServer(lambda _: sent) as server:
        answer = get(server, fetcher)
    assert (answer.status, answer.body) == (403, body)
