"""The latencies of a crawl: each request with a response is counted once, with the row of its URL."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from typing import Any

import pytest

from scrapers.fetch.client import Client
from scrapers.fetch.proxies import Proxies
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import Response
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png
from tests.scrapers.raw_server import FETCHERS


def query(config: DalleBlogConfig, sql: str) -> list[tuple[Any, ...]]:
    ledger = Ledger(config.workspace / "raw" / "ledger.sqlite")
    found = list(ledger.query(sql))
    ledger.close()
    return found


def test_every_request_with_a_response_is_counted_whatever_came_of_it(
    server: Server, quick: DalleBlogConfig
) -> None:
    answered = 0

    async def behaves(ask: Ask) -> bytes | None:
        nonlocal answered
        if ask.path.endswith("_0.png") and ask.turn == 1:
            return None
        if not ask.path.startswith("/moved"):
            answered += 1
        if ask.path.endswith("_1.png") and ask.turn < 3:
            return answer(b"busy", 500)
        if ask.path.endswith("_2.png"):
            return answer(b"", 404)
        if ask.path.endswith("_3.png") and not ask.path.startswith("/moved"):
            return answer(b"", 302, Location=f"/moved{ask.path}")
        return answer(png(ask.path))

    server.behaviour = behaves
    source = PlainSource(server.url, captions=5, ranks=6)
    report = scrape(quick, source=source, clock=lambda: 6000.0)
    assert report.counts["done"] == 25
    requests = sum(n for path, n in server.image_hits.items() if not path.startswith("/moved"))
    assert answered == requests - 5
    assert query(quick, "SELECT minute, sum(requests) FROM latencies") == [(100, answered)]
    hosts = query(quick, "SELECT host, sum(requests) FROM host_latencies")
    assert hosts == [(server.url.removeprefix("http://"), answered)]
    scrape(dataclasses.replace(quick, refresh=True), source=source, clock=lambda: 7200.0)
    later = query(quick, "SELECT sum(requests) FROM latencies WHERE minute > 100")
    assert later == [(30 + 10 - 10,)]


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_latency_ends_with_the_head_and_adds_that_of_redirects(fetcher: str) -> None:
    received: list[float] = []
    heads: list[float] = []
    bodies: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = png("x")
        while line := await reader.readline():
            await reader.readuntil(b"\r\n\r\n")
            received.append(time.monotonic())
            await asyncio.sleep(0.02)
            heads.append(time.monotonic())
            moves = line.split()[1].endswith(b"/first.png")
            writer.write(answer(b"", 302, Location="/x.png") if moves else answer(length=len(body)))
            # By then the client, in the same loop, has read the head.
            for _ in range(100):
                await asyncio.sleep(0)
            bodies.append(time.monotonic())
            if not moves:
                await asyncio.sleep(0.2)
                writer.write(body)

    async def get() -> tuple[float, Response]:
        listening = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = listening.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        proxies = Proxies(by_scheme={"http": parse_address(url)}, loopback=True)
        async with Client(
            user_agent="test/1", proxies=proxies if fetcher == "session" else None
        ) as client:
            started = time.monotonic()
            response = await client.get(f"{url}/first.png")
        listening.close()
        return started, response

    started, response = asyncio.run(get())
    assert response.status == 200
    assert len(received) == 2
    slack_s = 0.001  # The clock of an event loop may be coarser.
    least_s = sum(head - got for head, got in zip(heads, received, strict=True))
    assert least_s - slack_s <= response.latency_s <= bodies[-1] - started + slack_s
