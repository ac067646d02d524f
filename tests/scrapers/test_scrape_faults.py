"""What a server does wrong, one thing at a time and all at once: what is stored, and under which reason."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.errors import SourceError
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, Behaviour, PlainSource, Server, answer, png, states, stored

HTML = answer(b"<!DOCTYPE html><html>Try again</html>", Content_Type="image/png")


async def closes(ask: Ask) -> None:
    return None


async def half(ask: Ask) -> None:
    body = png(ask.path)
    await ask.send(answer(body[:300], length=len(body)))


async def half_and_says_so(ask: Ask) -> bytes:
    return answer(png(ask.path)[:300])


async def stalls(ask: Ask) -> None:
    await ask.send(answer(b"", length=1000)[:-1])
    await asyncio.sleep(60)


async def html(ask: Ask) -> bytes:
    return HTML


async def nothing(ask: Ask) -> bytes:
    return answer(b"")


def with_status(status: int, **headers: Any) -> Behaviour:
    async def answers(ask: Ask) -> bytes:
        return answer(b"no", status, **headers)

    return answers


async def not_modified(ask: Ask) -> bytes:
    return b"HTTP/1.1 304 X\r\n\r\n"


async def not_http(ask: Ask) -> None:
    await ask.send(b"SSH-2.0-OpenSSH\r\n\r\n")


PASSING: dict[str, tuple[Behaviour, str]] = {
    "closes": (closes, "disconnected"),
    "half": (half, "truncated"),
    "half_and_says_so": (half_and_says_so, "ends_early"),
    "html": (html, "html"),
    "nothing": (nothing, "empty"),
    "http_408": (with_status(408), "http_408"),
    "http_425": (with_status(425), "http_425"),
    "http_429": (with_status(429, Retry_After="0"), "http_429"),
    "http_500": (with_status(500), "http_500"),
    "http_502": (with_status(502), "http_502"),
    "http_503": (with_status(503), "http_503"),
    "not_http": (not_http, "bad_http"),
}


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_one_more_request(
    fault: str, server: Server, quick: DalleBlogConfig
) -> None:
    misbehave, reason = PASSING[fault]

    async def once(ask: Ask) -> bytes | None:
        if ask.turn == 1:
            return await misbehave(ask)
        return answer(png(ask.path))

    server.behaviour = once
    report = scrape(quick, source=PlainSource(server.url, captions=2, ranks=3))
    assert report.outcome == "done"
    assert report.counts["done"] == 6
    retries = report.details["retries"]
    # A kept connection that is closed without an answer costs nothing: only new ones count.
    assert retries == {reason: 6} or (fault == "closes" and 0 < retries[reason] <= 6)
    assert set(server.image_hits.values()) == {2}


LASTING: dict[str, tuple[Behaviour, str, str, int]] = {
    "closes": (closes, "failed", "disconnected", 3),
    "half": (half, "truncated", "truncated", 3),
    "half_and_says_so": (half_and_says_so, "truncated", "ends_early", 3),
    "html": (html, "not_an_image", "html", 3),
    "nothing": (nothing, "not_an_image", "empty", 3),
    "http_500": (with_status(500), "failed", "http_500", 3),
    "http_429": (with_status(429), "failed", "http_429", 3),
    "http_401": (with_status(401), "failed", "http_401", 1),
    "http_403": (with_status(403), "failed", "http_403", 1),
    "http_404": (with_status(404), "missing", "http_404", 1),
    "http_410": (with_status(410), "missing", "http_410", 1),
    "http_418": (with_status(418), "failed", "http_418", 1),
    "noai": (with_status(200, X_Robots_Tag="noindex, noai"), "opted_out", "x_robots_noindex", 1),
    "too_large": (with_status(200), "failed", "too_large", 3),
    "not_modified": (not_modified, "failed", "http_304", 1),
}


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_is_counted_by_its_reason(
    fault: str, server: Server, quick: DalleBlogConfig
) -> None:
    misbehave, state, reason, requests = LASTING[fault]

    async def rank_two(ask: Ask) -> bytes | None:
        if not ask.path.endswith("_2.png"):
            return answer(png(ask.path))
        if fault == "too_large":
            return answer(b"\x89PNG\r\n\x1a\n", length=26 * 2**20)
        return await misbehave(ask)

    server.behaviour = rank_two
    report = scrape(replace(quick, attempts=3), source=PlainSource(server.url, captions=2))
    assert report.counts[state] == 2
    assert report.counts["done"] == 6
    assert report.details["reasons"] == {reason: 2}
    assert report.outcome == ("done" if state in ("missing", "opted_out") else "incomplete")
    hits = [n for path, n in server.image_hits.items() if path.endswith("_2.png")]
    assert min(hits) >= requests
    assert max(hits) <= (2 * requests if fault == "closes" else requests)


def test_a_body_that_never_comes_times_out(server: Server, quick: DalleBlogConfig) -> None:
    async def loris(ask: Ask) -> bytes | None:
        if ask.path.endswith("_1.png"):
            await ask.send(answer(b"", length=5000))
            for _ in range(100):
                await ask.send(b"x")
                await asyncio.sleep(0.1)
        return answer(png(ask.path))

    server.behaviour = loris
    report = scrape(
        replace(quick, timeout_s=0.3, attempts=2), source=PlainSource(server.url, captions=1)
    )
    assert report.details["reasons"] == {"timeout": 1}
    assert report.counts["done"] == 3


def test_an_endless_body_is_dropped_at_the_limit(server: Server, quick: DalleBlogConfig) -> None:
    sent = Counter[str]()

    async def endless(ask: Ask) -> bytes | None:
        if not ask.path.endswith("_1.png"):
            return answer(png(ask.path))
        await ask.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = bytes(2**20)
        for _ in range(10_000):
            await ask.send(b"100000\r\n" + piece + b"\r\n")
            sent[ask.path] += len(piece)
        return None

    server.behaviour = endless
    report = scrape(
        replace(quick, timeout_s=20, attempts=1), source=PlainSource(server.url, captions=1)
    )
    assert report.details["reasons"] == {"too_large": 1}
    assert sum(sent.values()) < 60 * 2**20


def test_a_compressed_bomb_is_not_unpacked(server: Server, quick: DalleBlogConfig) -> None:
    bomb = gzip.compress(bytes(300 * 2**20), 9)

    async def bombs(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(bomb, Content_Encoding="gzip")
        if ask.path.endswith("_2.png"):
            return answer(gzip.compress(png(ask.path)), Content_Encoding="gzip")
        return answer(png(ask.path))

    server.behaviour = bombs
    report = scrape(replace(quick, attempts=2), source=PlainSource(server.url, captions=1))
    found = {url[-5:]: state for url, state in states(quick.workspace).items()}
    assert found["1.png"] == ("failed", "too_large")
    assert found["2.png"] == ("done", None)
    assert report.counts["done"] == 3


def test_redirects_are_followed_at_most_five_times(server: Server, quick: DalleBlogConfig) -> None:
    async def redirects(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location=ask.path)
        if "_0.png" in ask.path and ask.path.count("+") < 5:
            return answer(status=301, Location=ask.path + "+")
        if ask.path.endswith("_2.png"):
            return answer(status=307, Location="ftp://example.org/x.png")
        if ask.path.endswith("_3.png"):
            return answer(status=308)
        return answer(png(ask.path))

    server.behaviour = redirects
    scrape(quick, source=PlainSource(server.url, captions=1))
    found = {url[-5:]: state for url, state in states(quick.workspace).items()}
    assert found["0.png"] == ("done", None)
    assert found["1.png"] == ("failed", "redirects")
    assert found["2.png"] == ("failed", "bad_redirect")
    assert found["3.png"] == ("failed", "redirect_without_location")


def test_all_faults_at_once_lose_nothing(server: Server, quick: DalleBlogConfig) -> None:
    kinds: list[Behaviour] = [
        closes,
        half,
        half_and_says_so,
        html,
        *(with_status(s) for s in (429, 500, 503)),
    ]

    async def one_in_five(ask: Ask) -> bytes | None:
        dice = hashlib.sha256(f"{ask.path}{ask.turn}".encode()).digest()
        if dice[0] < 51:
            return await kinds[dice[1] % len(kinds)](ask)
        return answer(png(ask.path))

    server.behaviour = one_in_five
    config = replace(quick, attempts=12)
    report = scrape(config, source=PlainSource(server.url, captions=40, ranks=32))
    found = stored(quick.workspace)
    assert len(found) == report.counts["done"] == 40 * 32
    assert report.counts["urls"] == 40 * 32
    assert all(body == png(url.removeprefix(server.url)) for url, body in found.items())
    # Those that a kept connection lost are asked again without being counted.
    again = sum(server.image_hits.values()) - 40 * 32
    lost = again - sum(report.details["retries"].values())
    assert 0 <= lost < again / 4


def test_a_server_that_is_gone_for_a_while_is_waited_for(
    server: Server, quick: DalleBlogConfig
) -> None:
    started = time.monotonic()

    async def gone(ask: Ask) -> bytes | None:
        if 0.2 < time.monotonic() - started < 1.5:
            return None
        await asyncio.sleep(0.01)
        return answer(png(ask.path))

    server.behaviour = gone
    report = scrape(
        replace(quick, max_backoff_s=0.3), source=PlainSource(server.url, captions=60, ranks=8)
    )
    assert report.outcome == "done"
    assert report.counts["done"] == 480
    # A dead host is tried now and then, not hammered.
    assert report.details["retries"]["disconnected"] < 120


def test_a_server_that_stays_gone_is_left_for_another_run(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.behaviour = closes
    config = replace(quick, max_outage_s=0.5, attempts=100)
    report = scrape(config, source=PlainSource(server.url, captions=50, ranks=32))
    assert report.outcome == "incomplete"
    assert report.counts["pending"] == 50 * 32
    server.behaviour = None
    report = scrape(config, source=PlainSource(server.url, captions=50, ranks=32))
    assert report.outcome == "done"
    assert report.counts["done"] == 50 * 32


def test_a_page_that_can_not_be_had_is_one_sentence_and_touches_nothing(
    server: Server, quick: DalleBlogConfig
) -> None:
    scrape(quick, source=PlainSource(server.url))
    before = (quick.workspace / "raw" / "manifest.json").read_bytes()
    server.behaviour = with_status(404)
    source = PlainSource(server.url, start_url=f"{server.url}/page")
    with pytest.raises(SourceError, match="status 404, expected 200"):
        scrape(quick, source=source)
    assert (quick.workspace / "raw" / "manifest.json").read_bytes() == before
    assert len(stored(quick.workspace)) == 12


@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_a_page_is_asked_for_as_often_as_attempts_say(
    server: Server, quick: DalleBlogConfig, attempts: int
) -> None:
    server.behaviour = with_status(503)
    source = PlainSource(server.url, start_url=f"{server.url}/page")
    config = replace(quick, attempts=attempts)
    with pytest.raises(SourceError, match="status 503, expected 200"):
        scrape(config, source=source)
    assert server.hits["/page"] == attempts

    async def last(ask: Ask) -> bytes | None:
        if ask.path == "/page" and ask.turn < 2 * attempts:
            return answer(b"", 503)
        return answer(b"<html>" if ask.path == "/page" else png(ask.path))

    server.behaviour = last
    assert scrape(config, source=source).outcome == "done"
    assert server.hits["/page"] == 2 * attempts


def test_the_page_is_asked_for_once(server: Server, quick: DalleBlogConfig) -> None:
    page = b"<html>" + b"x" * 15_000_000

    async def serves(ask: Ask) -> bytes | None:
        if ask.path == "/page":
            return answer(page) if ask.turn > 1 else None
        return answer(png(ask.path))

    server.behaviour = serves
    source = PlainSource(server.url, start_url=f"{server.url}/page")
    assert scrape(quick, source=source).outcome == "done"
    assert scrape(quick, source=source).outcome == "unchanged"
    assert scrape(replace(quick, limit=7), source=source).outcome == "unchanged"
    assert server.hits["/page"] == 2
    assert [found and found.body for found in source.pages] == [page, page]


def test_an_interrupt_stops_asking_and_keeps_what_came(
    server: Server, quick: DalleBlogConfig
) -> None:
    import os
    import signal

    async def slow(ask: Ask) -> bytes:
        await asyncio.sleep(0.005)
        return answer(png(ask.path))

    server.behaviour = slow
    source = PlainSource(server.url, captions=240, ranks=32)
    for number in (signal.SIGINT, signal.SIGTERM):
        timer = threading.Timer(0.6, os.kill, (os.getpid(), number))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            scrape(quick, source=source)
        timer.join()
    kept = stored(quick.workspace)
    assert 0 < len(kept) < 7680
    server.behaviour = None
    assert scrape(quick, source=source).counts["done"] == 7680
    extra = sum(server.image_hits.values()) - 7680
    assert extra <= 2 * quick.concurrency
