"""Hosts that wait: Retry-After, robots.txt that can't be fetched, closed connections, and what is logged."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest

from pipeline.core.errors import SourceError
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png, states
from tests.scrapers.raw_server import RawServer, ok


def test_a_wait_beyond_the_longest_outage_leaves_the_host(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async def much_later(ask: Ask) -> bytes:
        return answer(b"", 429, Retry_After="99999999")

    server.behaviour = much_later
    source = PlainSource(server.url, captions=2, ranks=32)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        report = scrape(quick, source=source)
    assert time.monotonic() - started < 60
    assert report.outcome == "incomplete"
    assert report.counts["pending"] == 64
    (said,) = caplog.messages
    assert re.fullmatch(
        re.escape(server.url)
        + r" doesn't respond \(status 429, Retry-After: 99999999, and asks us to "
        r"wait until 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\): longer than --max-outage-s 5\. Its other URLs "
        r"are left for another run\.",
        said,
    )
    server.behaviour = None
    assert scrape(quick, source=source).counts["done"] == 64


def test_a_wait_within_it_is_said_once_and_waited(
    server: Server,
    quick: DalleBlogConfig,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scrapers.fetch.hosts.LONG_WAIT_S", 0.5)
    seen: list[str] = []

    async def once(ask: Ask) -> bytes:
        if ask.turn == 1 and ask.path.endswith(("_1.png", "_2.png", "_3.png")):
            return answer(b"", 503, Retry_After="2")
        return answer(png(ask.path))

    def progress(
        done: int, total: int | None, notes: Mapping[str, int | float | str] | None = None
    ) -> None:
        if notes and "waiting for" in notes:
            seen.append(str(notes["waiting for"]))

    server.behaviour = once
    config = replace(quick, max_outage_s=30.0)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        report = scrape(config, progress, source=PlainSource(server.url, captions=1))
    assert report.counts["done"] == 4
    assert time.monotonic() - started >= 2.0
    (said,) = caplog.messages
    assert re.fullmatch(
        re.escape(server.url) + r" asks us to wait: no requests until [\d: -]+ "
        r"\(status 503, Retry-After: 2\)\.",
        said,
    )
    assert seen[0].startswith(f"{server.url} until ")


def test_a_page_that_is_to_be_asked_much_later_is_said_so(
    server: Server, quick: DalleBlogConfig
) -> None:
    async def later(ask: Ask) -> bytes:
        return answer(b"", 503, Retry_After="86400")

    server.behaviour = later
    with pytest.raises(
        SourceError, match=r"status 503.*; it asks us to wait until .*--max-outage-s 5"
    ):
        scrape(quick, source=PlainSource(server.url, start_url=f"{server.url}/page"))
    assert server.hits["/page"] == 1


def test_robots_that_are_to_be_asked_much_later_close_the_host(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server.robots_answer = answer(b"", 503, Retry_After="86400")
    with caplog.at_level(logging.WARNING):
        report = scrape(quick, source=PlainSource(server.url))
    assert report.counts["pending"] == 12
    assert server.hits["/robots.txt"] == 1
    (said,) = caplog.messages
    assert said.startswith(
        f"{server.url}/robots.txt can't be fetched: status 503; it asks us to wait until "
    )
    assert said.endswith(
        "longer than --max-outage-s 5. Nothing is requested from this host for now."
    )


@pytest.mark.parametrize("outage", ["status", "refused", "closes"])
def test_an_outage_of_a_redirects_target_is_no_refusal(
    outage: str, server: Server, quick: DalleBlogConfig
) -> None:
    target = Server()
    to = target.url

    async def moves(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location=f"{to}{ask.path}")
        return answer(png(ask.path))

    async def closes(ask: Ask) -> None:
        return None

    server.behaviour = moves
    if outage == "status":
        target.robots_answer = answer(b"", 503)
    elif outage == "closes":
        target.robots_answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    else:
        target.close()
    source = PlainSource(server.url, captions=3)
    report = scrape(replace(quick, timeout_s=0.5), source=source)
    assert report.outcome == "incomplete"
    assert report.counts["done"] == 9
    assert report.counts["pending"] == 3
    assert report.counts["opted_out"] == 0
    assert report.details["reasons"] == {"robots_unreachable": 3}
    if outage != "refused":
        target.close()
    # The same command asks again.
    target = Server()
    to = target.url
    assert scrape(quick, source=source).counts["done"] == 12
    assert target.hits["/samples/things/c0_1.png"] == 1
    target.close()


def test_a_redirect_into_robots_that_refuse_is_an_opt_out(
    server: Server, quick: DalleBlogConfig
) -> None:
    target = Server(robots=b"User-agent: *\nDisallow: /\n")

    async def moves(ask: Ask) -> bytes:
        return answer(status=302, Location=f"{target.url}{ask.path}")

    server.behaviour = moves
    report = scrape(quick, source=PlainSource(server.url, captions=1))
    target.close()
    assert report.outcome == "done"
    assert set(states(quick.workspace).values()) == {("opted_out", "robots")}


@pytest.mark.parametrize("honest", [True, False])
def test_connections_that_close_behind_each_answer_cost_no_attempts(
    honest: bool, quick: DalleBlogConfig
) -> None:
    line = b"Connection: close" if honest else b"Connection: keep-alive"

    def script(one: object) -> bytes:
        return ok(png("x"), line)

    with RawServer(script, closes=True) as server:
        # One attempt each: nothing may count as a failure.
        patient = replace(quick, timeout_s=60.0, max_outage_s=60.0)
        config = replace(patient, attempts=1, concurrency=16, ignore_opt_out=True)
        report = scrape(config, source=PlainSource(server.url, captions=30, ranks=32))
        assert report.counts["done"] == 960
        assert report.details["requests"] == 960
        assert report.details["retries"] == {}
        assert server.connections == 960


def test_cookies_are_kept_within_a_crawl_alone(server: Server, quick: DalleBlogConfig) -> None:
    async def gate(ask: Ask) -> bytes:
        if "pass=1" in ask.headers.get("cookie", ""):
            return answer(png(ask.path))
        return answer(status=302, Location=ask.path, Set_Cookie="pass=1; Path=/")

    server.behaviour = gate
    for run in ("one", "two"):
        config = replace(quick, workspace=quick.workspace / run)
        assert scrape(config, source=PlainSource(server.url, captions=1)).counts["done"] == 4
        first = [h for p, h in server.asked if p != "/robots.txt"][0 if run == "one" else -5]
        assert "cookie" not in first
    kept = b"".join(p.read_bytes() for p in quick.workspace.rglob("*") if p.is_file())
    assert b"pass=1" not in kept
