"""A million hosts in bounded memory: names, hosts, cookies and connections."""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import threading
import time
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from scrapers.fetch.client import Client
from scrapers.fetch.cookies import CookieJar
from scrapers.fetch.host import Host
from scrapers.fetch.host_table import HostTable
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.open_files import connection_limit, raise_limit
from scrapers.fetch.pace import Backoff, HostPace
from scrapers.fetch.redirects import is_public_address
from scrapers.fetch.resolving import Addresses
from scrapers.fetch.robots import parse_robots
from scrapers.fetch.system_resolver import SystemResolver
from tests.helpers.crawls import Server, answer


class Names(AbstractResolver):
    """Every name is at this machine, but for the first `failures` times."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked.append(host)
        if len(self.asked) <= self.failures:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None: ...


def host(origin: str, now: float = 0.0, rate: float | None = None) -> Host:
    pace = HostPace(max_slots=4, rate=rate, outage=Backoff(), rng=random.Random(0), now=now)
    return Host(origin, pace)


# --- Hosts ---------------------------------------------------------------------------------------


def test_of_many_hosts_the_latest_and_those_with_work_are_remembered() -> None:
    table = HostTable(lambda: 0.0, max_weight=800)
    busy = host("http://busy.test")
    busy.ready.append("a job")
    table.add(busy)
    for number in range(10_000):
        table.add(host(f"http://h{number}.test"))
        assert len(table) <= 801
    assert table.find("http://busy.test") is busy
    assert table.find("http://h9999.test") is not None
    assert table.find("http://h0.test") is None


def test_a_host_that_waits_for_its_pace_is_not_forgotten() -> None:
    now = [0.0]
    table = HostTable(lambda: now[0], max_weight=80)
    paced = host("http://paced.test", rate=0.1)
    paced.pace.count(0.0)
    table.add(paced)
    for number in range(200):
        table.add(host(f"http://a{number}.test"))
    assert table.find("http://paced.test") is paced
    now[0] = 11.0
    for number in range(200):
        table.add(host(f"http://b{number}.test"))
    assert table.find("http://paced.test") is None


def test_a_host_that_was_given_up_stays_so_when_it_is_met_again() -> None:
    table = HostTable(lambda: 0.0, max_weight=80)
    down = host("http://down.test")
    down.closed = "no_answer"
    table.add(down)
    for number in range(200):
        table.add(host(f"http://a{number}.test"))
    assert table.find("http://down.test") is None
    again = host("http://down.test")
    table.add(again)
    assert again.closed == "no_answer"
    assert again.robots is not None


def test_a_long_robots_txt_weighs_more() -> None:
    table = HostTable(lambda: 0.0, max_weight=800)
    lines = "User-agent: *\n" + "".join(f"Disallow: /{n}\n" for n in range(400))
    for number in range(100):
        heavy = host(f"http://h{number}.test")
        heavy.robots = parse_robots(lines, "dalle-pipeline")
        assert heavy.weight == 101
        table.add(heavy)
    assert len(table) <= 10


def test_a_forgotten_host_is_asked_for_its_robots_again(server: Server) -> None:
    server.robots = b"User-agent: *\nDisallow: /private/\n"

    async def crawl() -> list[bool]:
        async with Client(user_agent="dalle-pipeline/1", resolver=Names()) as client:
            hosts = Hosts(
                client=client,
                backoff=Backoff(),
                rng=random.Random(0),
                max_slots=4,
                rate=None,
                ignore_opt_out=False,
                monotonic=lambda: 0.0,
                max_weight=16,
            )
            urls = [f"http://h{number}.test:{server.port}/private/x.png" for number in range(60)]
            found = [await hosts.allows(url) for url in urls]
            assert len(hosts.all()) <= 17
            return [*found, await hosts.allows(urls[0]), await hosts.allows(urls[0])]

    assert asyncio.run(crawl()) == [False] * 62
    assert server.hits["/robots.txt"] == 61


def test_robots_and_tdmrep_count_for_the_pace(server: Server) -> None:
    async def crawl() -> float | None:
        async with Client(user_agent="dalle-pipeline/1") as client:
            hosts = Hosts(
                client=client,
                backoff=Backoff(),
                rng=random.Random(0),
                max_slots=4,
                rate=20.0,
                ignore_opt_out=False,
                monotonic=time.monotonic,
            )
            found = hosts.of(f"{server.url}/x.png")
            started = time.monotonic()
            await hosts.load(found)
            return found.pace.wait_s(started)

    waits_s = asyncio.run(crawl())
    assert waits_s is not None
    assert waits_s >= 0.1


def test_many_robots_are_renewed_at_once(server: Server) -> None:
    now, at_once = [0.0], asyncio.Event()
    asked: list[str] = []

    async def crawl() -> None:
        async with Client(user_agent="dalle-pipeline/1", resolver=Names()) as client:
            hosts = Hosts(
                client=client,
                backoff=Backoff(base_s=0.001, cap_s=0.002),
                rng=random.Random(0),
                max_slots=4,
                rate=None,
                ignore_opt_out=False,
                monotonic=lambda: now[0],
            )
            urls = [f"http://h{number}.test:{server.port}/x.png" for number in range(30)]
            server.robots_answer = answer(b"", 503)
            assert [await hosts.allows(url) for url in urls] == [False] * 30
            for url in urls[:20]:  # The others were not met since.
                hosts.of(url)
            server.robots_answer = None
            now[0] = 100.0
            real = client.get

            async def together(url: str, **options: Any) -> Any:
                if url.endswith("/robots.txt"):
                    asked.append(url)
                    if len(asked) == 20:
                        at_once.set()
                    await asyncio.wait_for(at_once.wait(), 60)
                return await real(url, **options)

            client.get = together  # type: ignore[method-assign]
            for known in hosts.all():
                known.wanted = known.origin in {url.rpartition("/")[0] for url in urls[:20]}
            await hosts.renew_robots()
            assert sum(known.closed is None for known in hosts.all()) == 20

    asyncio.run(crawl())
    assert len(asked) == 20


# --- Names ---------------------------------------------------------------------------------------


def test_the_latest_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scrapers.fetch.resolving.MAX_NAMES", 100)
    names = Names()

    async def look() -> None:
        addresses = Addresses(names, is_public_address)
        for number in [*range(1000), *range(900, 1000), 0]:
            await addresses.look_up(f"h{number}.test", public_only=False)
        assert len(addresses._known) == 100
        await addresses.close()

    asyncio.run(look())
    assert names.asked == [f"h{number}.test" for number in [*range(1000), 0]]


def test_a_name_that_was_not_found_is_looked_up_again_a_moment_later() -> None:
    now, names = [0.0], Names(failures=1)

    async def look() -> list[bool]:
        addresses = Addresses(names, is_public_address, clock=lambda: now[0])
        found = []
        for second in (0.0, 0.5, 1.9, 2.1, 3.0):
            now[0] = second
            try:
                await addresses.look_up("a.test", public_only=False)
            except OSError:
                found.append(False)
            else:
                found.append(True)
        await addresses.close()
        return found

    assert asyncio.run(look()) == [False, False, False, True, True]
    assert len(names.asked) == 2


def test_slow_names_are_looked_up_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(40)

    def slow(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        together.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)

    async def look() -> list[str]:
        resolver = SystemResolver()
        looks = (resolver.resolve(f"h{number}.test") for number in range(40))
        found = await asyncio.gather(*looks)
        await resolver.close()
        return [entry["host"] for (entry,) in found]

    assert asyncio.run(look()) == ["192.0.2.1"] * 40


def test_the_system_knows_this_machine() -> None:
    async def look() -> set[str]:
        resolver = SystemResolver()
        found = await resolver.resolve("localhost", 80)
        await resolver.close()
        return {entry["host"] for entry in found}

    assert asyncio.run(look()) & {"127.0.0.1", "::1"}


# --- Connections and cookies ---------------------------------------------------------------------


def test_the_longest_idle_connections_make_room(server: Server) -> None:
    async def crawl() -> tuple[int, int]:
        async with Client(user_agent="x", resolver=Names(), max_connections=8) as client:
            most = 0
            for number in [*range(40), *[39] * 10]:
                await client.get(f"http://h{number}.test:{server.port}/x.png")
                most = max(most, len(client._connections._connections))  # type: ignore[attr-defined]
            return most, len(client._connections._connections)  # type: ignore[attr-defined]

    most, left = asyncio.run(crawl())
    assert most <= 8
    assert left >= 1


def test_connections_fit_into_the_limit_of_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, before[0]), before[1]))
        assert raise_limit() == min(65_536, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert connection_limit(1024) == 768
    assert connection_limit(256) == 128
    assert connection_limit(10) == 8


def test_cookies_of_the_latest_hosts_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scrapers.fetch.cookies.MAX_HOSTS", 10)
    jar = CookieJar()
    for number in range(50):
        jar.store(f"h{number}.test", "/", ["a=1"])
        jar.store("first.test", "/", ["b=2"])
    assert jar.field("first.test", "/", secure=False) == "b=2"
    assert jar.field("h49.test", "/", secure=False) == "a=1"
    assert jar.field("h39.test", "/", secure=False) is None
