"""The pace of a host counts from when requests are written, however long connecting takes."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from typing import Any

import pytest

from scrapers.fetch.client import Client
from scrapers.fetch.connection import Connection
from scrapers.fetch.connections import Connections
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import Backoff, HostPace
from scrapers.fetch.proxies import find_proxies
from tests.helpers.crawls import Ask, Server, answer, png

INTERVAL_S = 0.1


@dataclass
class Writes:
    """When each request was written: the clock just before and just after."""

    spans: list[tuple[float, float]] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ask = Connection.ask

        def watched(connection: Connection, *args: Any) -> asyncio.Future[Any]:
            before = time.monotonic()
            waiting = ask(connection, *args)
            self.spans.append((before, time.monotonic()))
            return waiting

        monkeypatch.setattr(Connection, "ask", watched)

    @property
    def gaps(self) -> list[float]:
        """From just after one was written to just before the next one was: at most the true gap."""
        return [after[0] - before[1] for before, after in itertools.pairwise(self.spans)]


def make_hosts(client: Client, *, rate: float | None = 1 / INTERVAL_S) -> Hosts:
    return Hosts(
        client=client,
        backoff=Backoff(base_s=0.01, cap_s=0.02),
        rng=random.Random(0),
        max_slots=8,
        rate=rate,
        ignore_opt_out=False,
        monotonic=time.monotonic,
    )


def test_requests_whose_connections_open_late_keep_their_distance(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    writes.watch(monkeypatch)
    connect = Connections.connect
    others_written = asyncio.Event()
    opened = 0

    async def the_first_opens_late(self: Connections, *args: Any, **more: Any) -> Connection:
        nonlocal opened
        opened += 1
        if opened == 1:
            await others_written.wait()
        return await connect(self, *args, **more)

    async def closes(ask: Ask) -> bytes:
        others_written.set()
        return answer(png(ask.path), Connection="close")

    server.behaviour = closes
    monkeypatch.setattr(Connections, "connect", the_first_opens_late)

    async def crawl() -> None:
        async with Client(user_agent="dalle-pipeline/1") as client:
            pace = make_hosts(client).of(server.url).pace
            started = []
            for number in range(4):
                await asyncio.sleep(pace.wait_s(time.monotonic()) or 0.0)
                pace.start(time.monotonic())
                started.append(asyncio.create_task(client.get(f"{server.url}/{number}.png")))
            await asyncio.gather(*started)

    asyncio.run(crawl())
    assert len(writes.gaps) == 3
    assert min(writes.gaps) >= INTERVAL_S


def test_a_redirect_counts_as_a_request_of_the_host_that_it_leads_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    writes.watch(monkeypatch)

    async def redirects(ask: Ask) -> bytes:
        if ask.path.startswith("/to/"):
            return answer(b"", 302, Location=ask.path.removeprefix("/to"))
        return answer(png(ask.path))

    server.behaviour = redirects

    async def crawl() -> None:
        async with Client(user_agent="dalle-pipeline/1") as client:
            make_hosts(client)
            assert (await client.get(f"{server.url}/to/to/a.png")).status == 200

    asyncio.run(crawl())
    assert len(writes.gaps) == 2
    assert min(writes.gaps) >= INTERVAL_S


def test_a_connection_that_is_closed_while_its_request_waits_is_replaced(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = Writes()
    writes.watch(monkeypatch)

    async def crawl() -> int:
        async with Client(user_agent="dalle-pipeline/1") as client:
            hosts = make_hosts(client)
            await client.get(f"{server.url}/a.png")
            waiting = asyncio.create_task(client.get(f"{server.url}/b.png"))
            pace = hosts.of(server.url).pace
            while not pace.at_gate:
                await asyncio.sleep(0)
            for connection in list(client._connections._connections):  # type: ignore[attr-defined]
                connection.close()
            return (await waiting).status

    assert asyncio.run(crawl()) == 200
    assert min(writes.gaps) >= INTERVAL_S


@pytest.mark.parametrize("through_proxy", [False, True])
def test_the_wait_does_not_count_towards_the_timeout(
    server: Server, *, through_proxy: bool
) -> None:
    proxies = find_proxies(server.url, {}) if through_proxy else None

    async def crawl() -> list[int]:
        async with Client(user_agent="dalle-pipeline/1", timeout_s=2.5, proxies=proxies) as client:
            make_hosts(client, rate=1 / 3)
            asked = [client.get(f"http://127.0.0.1:{server.port}/{name}.png") for name in "ab"]
            return [response.status for response in await asyncio.gather(*asked)]

    assert asyncio.run(crawl()) == [200, 200]


def test_requests_through_a_proxy_keep_their_distance(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[float] = []
    note_sent = HostPace.note_sent

    def noted(pace: HostPace, now: float) -> None:
        opened.append(now)
        note_sent(pace, now)

    monkeypatch.setattr(HostPace, "note_sent", noted)

    async def crawl() -> list[int]:
        proxies = find_proxies(server.url, {})
        async with Client(user_agent="dalle-pipeline/1", proxies=proxies) as client:
            make_hosts(client)
            asked = [client.get(f"http://a.test/{number}.png") for number in range(4)]
            return [response.status for response in await asyncio.gather(*asked)]

    assert asyncio.run(crawl()) == [200] * 4
    assert len(opened) == 4
    assert min(b - a for a, b in itertools.pairwise(opened)) >= INTERVAL_S
