"""A list of many hosts: each gets work, whatever the order of the list and however slow another one is."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.core.contracts import StageReport
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from scrapers.config import ScrapeConfig
from scrapers.crawl.window import Window
from scrapers.fetch.client import Client
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import Backoff
from scrapers.scrape import scrape
from scrapers.source import Discovery, Item
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.crawls import Ask, Server, answer, png, states, stored

ROOT = Path(__file__).parents[3]

# Longer than any of these crawls: who waits for a host that is not asked fails.
PATIENCE_S = 100.0


class EveryName(AbstractResolver):
    """Every name is at this machine, except those without an address."""

    def __init__(self, *missing: str) -> None:
        self.missing = missing
        self.asked: Counter[str] = Counter()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked[host] += 1
        if host in self.missing:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None: ...


def host_of(ask: Ask) -> str:
    return ask.headers["host"].partition(":")[0]


@pytest.fixture
def config(tmp_path: Path) -> UrlsConfig:
    workspace = Workspace(tmp_path / "data").open(source="urls").root
    return UrlsConfig(
        source="urls",
        workspace=workspace,
        inputs=(str(tmp_path / "list.tsv"),),
        backoff_s=0.01,
        max_backoff_s=0.05,
        concurrency=2,
    )


def run(
    config: UrlsConfig,
    rows: Iterable[tuple[str, int]],
    *,
    port: int,
    resolver: EveryName | None = None,
    max_connections: int | None = None,
) -> StageReport:
    """Crawl a list of (host, number of the image)."""
    lines = [f"http://{host}:{port}/{host}/{number}.png\tof {host}" for host, number in rows]
    Path(config.inputs[0]).write_text("\n".join(["url\tcaption", *lines]))
    return crawl(config, resolver=resolver, max_connections=max_connections)


def crawl(
    config: UrlsConfig, *, resolver: EveryName | None = None, max_connections: int | None = None
) -> StageReport:
    """Crawl with every name at this machine."""

    def make_client(config: ScrapeConfig) -> Client:
        return Client(
            user_agent="dalle-pipeline/test",
            timeout_s=config.timeout_s,
            resolver=resolver or EveryName(),
            max_connections=max_connections,
        )

    return scrape(config, make_client=make_client)


def sorted_rows(hosts: int, images: int) -> list[tuple[str, int]]:
    return [(f"h{host}.test", number) for host in range(hosts) for number in range(images)]


def test_a_list_that_is_sorted_by_host_keeps_all_hosts_busy(
    server: Server, config: UrlsConfig
) -> None:
    seen: set[str] = set()
    everywhere = asyncio.Event()

    async def answers_when_all_were_asked(ask: Ask) -> bytes:
        seen.add(host_of(ask))
        if len(seen) == 20:
            everywhere.set()
        await asyncio.wait_for(everywhere.wait(), PATIENCE_S)
        return answer(png(ask.path))

    server.behaviour = answers_when_all_were_asked
    report = run(config, sorted_rows(20, 100), port=server.port)
    assert report.counts["done"] == report.counts["urls"] == 2000
    assert set(server.image_hits.values()) == {1}
    asked = Counter((h["host"], path) for path, h in server.asked if path == "/robots.txt")
    assert len(asked) == 20
    assert set(asked.values()) == {1}


def test_a_slow_host_does_not_hold_the_others(server: Server, config: UrlsConfig) -> None:
    others_done = asyncio.Event()
    done: list[str] = []

    async def slow(ask: Ask) -> bytes:
        if host_of(ask) == "slow.test":
            await asyncio.wait_for(others_done.wait(), PATIENCE_S)
        else:
            done.append(ask.path)
            if len(done) == 60:
                others_done.set()
        return answer(png(ask.path))

    server.behaviour = slow
    rows = [*(("slow.test", number) for number in range(500)), *sorted_rows(20, 3)]
    assert run(config, rows, port=server.port).counts["done"] == 560


def test_a_host_never_gets_more_requests_at_a_time_than_allowed(
    server: Server, config: UrlsConfig
) -> None:
    now: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def counts(ask: Ask) -> bytes:
        host = host_of(ask)
        now[host] += 1
        most[host] = max(most[host], now[host])
        await asyncio.sleep(0.001)
        now[host] -= 1
        return answer(png(ask.path))

    server.behaviour = counts
    rows = sorted_rows(10, 30)
    random.Random(0).shuffle(rows)
    assert run(config, rows, port=server.port).counts["done"] == 300
    assert max(most.values()) <= 2


def test_all_hosts_share_a_few_connections(server: Server, config: UrlsConfig) -> None:
    async def takes_a_moment(ask: Ask) -> bytes:
        await asyncio.sleep(0.002)
        return answer(png(ask.path))

    server.behaviour = takes_a_moment
    report = run(config, sorted_rows(50, 10), port=server.port, max_connections=8)
    assert report.counts["done"] == 500
    # Half of them for images, a quarter for the robots.txt of hosts.
    assert server.most_at_once <= 6


def test_dead_hosts_are_left_for_another_run_with_all_that_waits_for_them(
    server: Server, config: UrlsConfig, caplog: pytest.LogCaptureFixture
) -> None:
    dead = [f"dead{number}.test" for number in range(30)]
    rows = [*((host, number) for host in dead for number in range(200)), *sorted_rows(10, 5)]
    with caplog.at_level(logging.WARNING):
        report = run(config, rows, port=server.port, resolver=EveryName(*dead))
    assert report.outcome == "incomplete"
    assert report.counts["done"] == 50
    assert report.counts["pending"] == 6000
    about = {record.getMessage().split(" ")[0] for record in caplog.records}
    assert sum("dead" in origin for origin in about) == 20  # of 30; the rest is for --log-level
    assert "20 hosts have had trouble" in caplog.text
    assert run(config, rows, port=server.port).counts["done"] == 6050
    assert set(server.image_hits.values()) == {1}


def test_failed_rows_that_are_left_for_another_run_are_counted_once(
    server: Server, config: UrlsConfig
) -> None:
    async def one_host_fails(ask: Ask) -> bytes:
        return answer(b"", 500) if host_of(ask) == "h1.test" else answer(png(ask.path))

    server.behaviour = one_host_fails
    rows = sorted_rows(3, 4)
    config = replace(config, attempts=1)
    first = run(config, rows, port=server.port).counts
    assert (first["urls"], first["done"], first["failed"]) == (12, 8, 4)
    server.behaviour = None
    for mode in ("retry_failed", "refresh"):
        again = replace(config, **{mode: True})  # type: ignore[arg-type]
        report = run(again, rows, port=server.port, resolver=EveryName("h1.test"))
        assert report.outcome == "incomplete"
        assert report.counts == first
    assert run(replace(config, refresh=True), rows, port=server.port).counts["done"] == 12


def test_a_host_that_fails_on_the_way_gives_up_what_is_parked(
    server: Server, config: UrlsConfig
) -> None:
    async def breaks(ask: Ask) -> bytes | None:
        if host_of(ask) == "breaks.test" and ask.path > "/breaks.test/5":
            return None
        return answer(png(ask.path))

    server.behaviour = breaks
    rows = [*(("breaks.test", number) for number in range(100, 800)), *sorted_rows(5, 3)]
    report = run(replace(config, max_outage_s=0.0), rows, port=server.port)
    assert report.outcome == "incomplete"
    assert report.counts["done"] >= 15
    assert report.counts["pending"] > 200
    server.behaviour = None
    assert run(config, rows, port=server.port).counts["done"] == 715


def test_urls_that_occur_again_on_a_busy_host_are_requested_once(
    server: Server, config: UrlsConfig
) -> None:
    rows = [*sorted_rows(2, 400), *sorted_rows(2, 400)]
    assert run(config, rows, port=server.port).counts["done"] == 800
    assert set(server.image_hits.values()) == {1}


# Kills itself at the n-th call of a method, counted while plans are parked; each time in a fork.
DIES = """
import os, signal, sys
from pathlib import Path
from scrapers.crawl.window import Window
from scrapers.rawstore import batch_writer
from scrapers.rawstore.ledger import Ledger
from tests.scrapers.crawl.test_many_hosts import UrlsConfig, crawl

def crawl_and_die(workspace, name, number, when):
    windows, calls, owner = [], 0, Ledger if name == "commit" else Window
    make, method = Window.__init__, getattr(owner, name)

    def keep(self, *args, **more):
        windows.append(self)
        make(self, *args, **more)

    def counted(*args, **more):
        nonlocal calls
        calls += not windows[0].is_empty
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = method(*args, **more)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    Window.__init__ = keep
    setattr(owner, name, counted)
    crawl(UrlsConfig(source="urls", workspace=workspace, inputs=(listed,), concurrency=2))

batch_writer.BATCH_ROWS = 50
folder, listed, *moments = sys.argv[1:]
for moment in moments:
    if not (pid := os.fork()):
        name, number, when = moment.split("-")
        crawl_and_die(Path(folder) / moment, name, int(number), when)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL
"""


def test_killed_while_plans_are_parked_it_ends_with_the_same_rows(
    server: Server, config: UrlsConfig, tmp_path: Path
) -> None:
    rows = [*sorted_rows(8, 100), *sorted_rows(8, 20)]  # the last ones occur again
    assert run(config, rows, port=server.port).counts["done"] == 800
    moments = ["commit-2-before", "commit-3-after", "unpark-200-before"]
    for moment in moments:
        Workspace(tmp_path / moment).open(source="urls")
    line = [sys.executable, "-c", DIES, str(tmp_path), config.inputs[0], *moments]
    subprocess.run(line, cwd=ROOT, check=True)
    for moment in moments:
        killed = tmp_path / moment
        assert 0 < len(states(killed)) < 800, moment
        assert crawl(replace(config, workspace=killed)).counts["done"] == 800, moment
        assert states(killed) == states(config.workspace), moment
        assert stored(killed) == stored(config.workspace), moment
        whole, mended = (
            read_manifest(root / "raw", "raw").details["content"]
            for root in (config.workspace, killed)
        )
        assert mended == whole, moment


def make_window(num_hosts: int) -> tuple[Window, Hosts]:
    hosts = Hosts(
        client=Client(user_agent="x", max_connections=8),
        backoff=Backoff(),
        rng=random.Random(0),
        max_slots=2,
        rate=None,
        ignore_opt_out=False,
        monotonic=lambda: 0.0,
    )
    return Window(hosts, num_hosts=num_hosts, concurrency=2), hosts


def test_a_source_with_one_host_is_not_read_ahead() -> None:
    window, hosts = make_window(1)
    host = hosts.of("http://a.test/")
    for _ in range(64):
        assert window.wants_plans(64)
        host.ready.append(None)
        window.add(host)
    assert not window.wants_plans(64)
    assert not window.park(Item(url="http://a.test/1.png", captions=("c",)).plan())


def test_reading_ahead_ends_when_every_host_has_work() -> None:
    window, hosts = make_window(3)
    plans = [Item(url=f"http://h{n}.test/1.png", captions=("c",)).plan() for n in range(3)]
    first = hosts.of("http://h0.test/")
    for _ in range(64):
        assert not window.park(plans[0])
        first.ready.append(None)
        window.add(first)
    assert window.park(plans[0])
    assert window.wants_plans(64)
    for number in (1, 2):
        host = hosts.of(f"http://h{number}.test/")
        host.ready.append(None)
        window.add(host)
        assert window.wants_plans(64 + number) is (number == 1)
    assert not window.is_empty
    assert window.unpark(first) == plans[0]
    assert window.is_empty


def test_a_full_window_is_not_read_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scrapers.crawl.window.MAX_PARKED_BYTES", 1000)
    window, hosts = make_window(100)
    host, parked = hosts.of("http://a.test/"), 0
    for number in range(64):
        host.ready.append(number)
        window.add(host)
    while window.wants_plans(64):
        assert window.park(Item(url=f"http://a.test/{parked}.png", captions=("c",)).plan())
        parked += 1
    assert 1 < parked < 50
    while host.parked:
        window.unpark(host)
    assert window.wants_plans(64)


def test_the_hosts_of_plain_items_are_counted() -> None:
    def items() -> list[Item]:
        return [Item(url=f"http://h{n % 4}.test/{n}.png", captions=("c",)) for n in range(9)]

    assert Discovery.of(items).num_hosts == 4
