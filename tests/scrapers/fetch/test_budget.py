"""What is on its way has one budget for all connections, whatever servers send."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from scrapers.fetch.budget import Budget
from scrapers.fetch.client import Client
from scrapers.fetch.response import FetchError, Response
from tests.helpers.crawls import png
from tests.scrapers.raw_server import FETCHERS, Heard, RawServer, get_all, ok, through

MIB = 2**20


class Holder:
    """Takes as much as it was given, and remembers when it was resumed."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.wants = 0
        self.held = 0

    def take(self, number: int) -> bool:
        taken = self.budget.take(self, number)
        self.held += number if taken else 0
        self.wants = 0 if taken else number
        return taken

    def resume(self) -> None:
        if self.wants:
            self.take(self.wants)


def test_a_budget_is_shared_and_one_holder_may_go_beyond_it() -> None:
    async def run() -> None:
        budget = Budget(100)
        first, second, third, fourth = (Holder(budget) for _ in range(4))
        assert first.take(60)
        assert second.take(40)
        assert third.take(10)  # Beyond it, so that somebody comes to an end.
        assert third.take(500)
        assert not first.take(1)
        assert not fourth.take(50)
        budget.give_back(second)  # 570 are held still.
        await asyncio.sleep(0)
        assert (first.wants, fourth.wants) == (1, 50)
        budget.hand_over(third, "another")
        budget.give_back(third)
        await asyncio.sleep(0)
        assert (first.wants, fourth.wants) == (1, 50)
        budget.give_back("another")
        await asyncio.sleep(0)
        # There is room for the first one's byte, and the other goes beyond it now.
        assert (first.held, fourth.held) == (61, 50)

    asyncio.run(run())


def test_whoever_gives_back_waits_no_more() -> None:
    async def run() -> None:
        budget = Budget(10)
        first, second, third = (Holder(budget) for _ in range(3))
        assert first.take(10)
        assert second.take(5)
        assert not third.take(5)
        budget.give_back(third)
        budget.give_back(first)
        budget.give_back(second)
        await asyncio.sleep(0)
        assert third.held == 0
        assert second.take(10)

    asyncio.run(run())


def test_bytes_that_are_not_written_yet_count_too() -> None:
    async def run() -> None:
        budget = Budget(100)
        pending = [90]
        budget.elsewhere = lambda: pending[0]
        first, second = Holder(budget), Holder(budget)
        # They free themselves: nobody goes beyond the limit meanwhile.
        assert not first.take(50)
        assert second.take(10)
        pending[0] = 0
        budget.wake()
        await asyncio.sleep(0)
        assert (first.held, second.held) == (50, 10)

    asyncio.run(run())


def endless(_: Heard) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield from [b"%x\r\n%b\r\n" % (MIB, bytes(MIB))] * 1000


def claimed(_: Heard) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (13 * MIB)
    yield from [bytes(MIB)] * 12


def images(_: Heard) -> Iterator[bytes]:
    yield IMAGE


IMAGE = ok(png("large", 12 * MIB))
ENDLESS = ((endless, "too_large"), (claimed, "truncated"), (images, None))
# What a crawl takes beside its bodies, and what waits to be written: two batches of 16 MiB.
PROGRAM = """
    import sys
    from pathlib import Path
    from scrapers.sources.dalleblog.config import DalleBlogConfig
    from scrapers.scrape import scrape
    from tests.helpers.crawls import PlainSource

    def crawl(base, captions, name):
        config = DalleBlogConfig(
            workspace=Path(folder, name), attempts=1, ignore_opt_out=True, timeout_s=120,
            proxy=base if through_proxies else None,
        )
        return scrape(config, source=PlainSource(base, captions=captions, ranks=32))

    def memory(field):
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith(field))

    folder, through_proxies, small, *servers = sys.argv[1:]
    through_proxies = through_proxies == "session"  # which has to do what goes through a proxy
    crawl(small, 2, "small")
    for number, large in enumerate(servers):
        Path("/proc/self/clear_refs").write_text("5")  # The peak starts again.
        before = memory("VmRSS")
        report = crawl(large, 1, f"large{number}")
        grown = (memory("VmHWM") - before) // 1024
        print(grown, report.details["reasons"], report.counts["done"])
"""


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_endless_bodies_on_all_connections_stay_within_it(fetcher: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        servers = [RawServer(lambda _: ok())]
        servers += [RawServer(script, closes=True) for script, _ in ENDLESS]
        urls = [stack.enter_context(server).url for server in servers]
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path), fetcher, *urls],
            capture_output=True,
            text=True,
            check=True,
        )
    said = [line.partition(" ") for line in done.stdout.splitlines()]
    assert [what for _, _, what in said] == [
        f"{{'{reason}': 32}} 0" if reason else "{} 32" for _, reason in ENDLESS
    ]
    # 32 bodies of 12 MiB would be 384.
    assert max(int(megabytes) for megabytes, _, _ in said) < 240, done.stdout


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_body_that_waits_for_room_loses_no_time(fetcher: str) -> None:
    body = png("waits", 3 * MIB)

    def script(one: Heard) -> Iterator[bytes]:
        yield ok(body)[:MIB]
        yield ok(body)[MIB:]

    async def run(server: RawServer) -> list[Response | BaseException]:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="x", timeout_s=2.5, proxies=proxies) as client:
            client.budget.limit = MIB
            blocker = Holder(client.budget)
            assert blocker.take(MIB)
            assert blocker.take(1)  # The one that may go beyond it.
            asked = [
                asyncio.create_task(get_all(client, f"{server.url}/{n}.png")) for n in range(3)
            ]
            await asyncio.sleep(3.0)  # More than any answer may take.
            assert not any(task.done() for task in asked)
            client.budget.give_back(blocker)
            return [one for task in asked for one in await task]

    with RawServer(script) as server:
        found = asyncio.run(run(server))
    assert [one.body for one in found if isinstance(one, Response)] == [body] * 3


def test_a_body_that_waits_may_be_given_up() -> None:
    async def run(server: RawServer) -> None:
        async with Client(user_agent="x") as client:
            client.budget.limit = 10
            blocker = Holder(client.budget)
            assert blocker.take(10)
            assert blocker.take(1)
            task = asyncio.create_task(get_all(client, f"{server.url}/a.png"))
            await asyncio.sleep(0.2)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            client.budget.give_back(blocker)
            assert blocker.take(10)
            budget = client.budget
            assert budget._total == 10
            assert not budget._waiting

    with RawServer(lambda _: ok(png("a", 3 * MIB))) as server:
        asyncio.run(run(server))


def test_a_server_that_gives_up_meanwhile_is_a_body_cut_short() -> None:
    async def run(server: RawServer) -> None:
        async with Client(user_agent="x", timeout_s=5) as client:
            client.budget.limit = 10
            blocker = Holder(client.budget)
            assert blocker.take(10)
            assert blocker.take(1)
            task = asyncio.create_task(get_all(client, f"{server.url}/a.png"))
            await asyncio.sleep(0.3)
            client.budget.give_back(blocker)
            await task

    def script(_: Heard) -> Iterator[bytes]:
        yield ok(png("a", 3 * MIB))[:MIB]

    with RawServer(script, closes=True) as server, pytest.raises(FetchError) as error:
        asyncio.run(run(server))
    assert error.value.reason == "truncated"
