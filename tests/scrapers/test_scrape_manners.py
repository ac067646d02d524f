"""Manners: robots.txt, opt-outs, pace, names; and redirects that lead where they should not."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.core.errors import ConfigError, SourceError
from scrapers.config import ScrapeConfig
from scrapers.fetch.client import Client
from scrapers.fetch.opening import user_agent
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png, states


def test_robots_are_obeyed_without_a_request(server: Server, quick: DalleBlogConfig) -> None:
    server.robots = b"User-agent: *\nDisallow: /samples/*_2.png$\n"
    report = scrape(quick, source=PlainSource(server.url, captions=2))
    assert report.counts["opted_out"] == 2
    assert report.counts["done"] == 6
    assert report.outcome == "done"
    assert not any(path.endswith("_2.png") for path in server.image_hits)
    assert server.hits["/robots.txt"] == 1


def test_a_host_that_refuses_all_is_not_asked(server: Server, quick: DalleBlogConfig) -> None:
    server.robots = b"User-agent: dalle-pipeline\nDisallow: /\n\nUser-agent: *\nAllow: /\n"
    report = scrape(quick, source=PlainSource(server.url, captions=300, ranks=32))
    assert report.counts["opted_out"] == report.counts["urls"] == 9600
    assert not server.image_hits


def test_opt_outs_can_be_ignored_and_that_is_recorded(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.robots = b"User-agent: *\nDisallow: /\n"

    async def noai(ask: Ask) -> bytes:
        return answer(png(ask.path), X_Robots_Tag="noai")

    server.behaviour = noai
    source = PlainSource(server.url, captions=1)
    assert scrape(quick, source=source).counts["opted_out"] == 4
    ignoring = replace(quick, workspace=quick.workspace / "ignoring", ignore_opt_out=True)
    assert scrape(ignoring, source=source).counts["done"] == 4
    manifest = (ignoring.workspace / "raw" / "manifest.json").read_text()
    assert '"ignore_opt_out": true' in manifest


@pytest.mark.parametrize("status", [500, 503, 429])
def test_robots_that_can_not_be_had_close_the_host_for_this_run(
    status: int, server: Server, quick: DalleBlogConfig
) -> None:
    server.robots_answer = answer(b"", status)
    source = PlainSource(server.url, captions=50)
    report = scrape(quick, source=source)
    assert report.outcome == "incomplete"
    assert report.counts["pending"] == 200
    assert not server.image_hits
    server.robots_answer = None
    assert scrape(quick, source=source).counts["done"] == 200


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_a_host_without_robots_is_open(status: int, server: Server, quick: DalleBlogConfig) -> None:
    server.robots_answer = answer(b"", status)
    assert scrape(quick, source=PlainSource(server.url)).counts["done"] == 12


def test_a_page_behind_closed_robots_is_not_asked_for(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.robots = b"User-agent: *\nDisallow: /page\n"
    with pytest.raises(SourceError, match=r"robots\.txt does not allow"):
        scrape(quick, source=PlainSource(server.url, start_url=f"{server.url}/page"))
    assert not server.image_hits


def test_never_more_requests_at_a_time_than_allowed(server: Server, quick: DalleBlogConfig) -> None:
    async def slow(ask: Ask) -> bytes:
        await asyncio.sleep(0.01)
        return answer(png(ask.path))

    server.behaviour = slow
    scrape(replace(quick, concurrency=5), source=PlainSource(server.url, captions=10, ranks=10))
    assert server.most_at_once == 5


def test_the_rate_is_kept(server: Server, quick: DalleBlogConfig) -> None:
    started = time.monotonic()
    scrape(replace(quick, rate=20.0), source=PlainSource(server.url, captions=3))
    assert time.monotonic() - started > 11 / 20


def test_retry_after_holds_back_the_whole_host(server: Server, quick: DalleBlogConfig) -> None:
    times: list[float] = []

    async def once(ask: Ask) -> bytes:
        times.append(time.monotonic())
        if len(times) == 1:
            return answer(b"", 429, Retry_After="1")
        return answer(png(ask.path))

    server.behaviour = once
    config = replace(quick, concurrency=1)
    assert scrape(config, source=PlainSource(server.url)).outcome == "done"
    assert times[1] - times[0] >= 1.0


def test_it_says_who_it_is(server: Server, quick: DalleBlogConfig) -> None:
    scrape(replace(quick, contact="me@example.org"), source=PlainSource(server.url, captions=1))
    agents = {headers["user-agent"] for _, headers in server.asked}
    (agent,) = agents
    assert agent.startswith("dalle-pipeline/")
    assert agent.endswith(" (+me@example.org)")
    with pytest.raises(ConfigError):
        user_agent("two\r\nlines: x")


class Names(AbstractResolver):
    """Every name is at one address."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=self.addresses[host],
                port=port,
                family=socket.AF_INET,
                proto=0,
                flags=0,
            )
        ]

    async def close(self) -> None: ...


@pytest.mark.parametrize("target", ["127.0.0.1", "inner.test", "[::ffff:127.0.0.1]"])
def test_a_public_host_can_not_send_us_inside(target: str, quick: DalleBlogConfig) -> None:
    everywhere = Server(host="0.0.0.0")

    async def redirects(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location=f"http://{target}:{everywhere.port}/secret.png")
        if ask.path.endswith("_2.png"):
            return answer(status=302, Location=f"http://cdn.test:{everywhere.port}/open.png")
        return answer(png(ask.path))

    def make_client(config: ScrapeConfig) -> Client:
        # 127.0.0.2 stands for an address of the public internet.
        names = {"page.test": "127.0.0.2", "cdn.test": "127.0.0.2", "inner.test": "127.0.0.1"}
        return Client(
            user_agent="dalle-pipeline/test",
            resolver=Names(names),
            is_public=lambda address: address == "127.0.0.2",
        )

    everywhere.behaviour = redirects
    source = PlainSource(f"http://page.test:{everywhere.port}", captions=1, ranks=3)
    scrape(quick, source=source, make_client=make_client)
    everywhere.close()
    found = {url[-5:]: state for url, state in states(quick.workspace).items()}
    assert found["0.png"] == ("done", None)
    assert found["1.png"] == ("failed", "redirect_to_private")
    assert found["2.png"] == ("done", None)
    assert "/secret.png" not in everywhere.hits
    # Not even its robots.txt.
    asked = {headers["host"].rpartition(":")[0] for _, headers in everywhere.asked}
    assert asked == {"page.test", "cdn.test"}
    assert "/open.png" in everywhere.hits


def test_a_certificate_that_nobody_signed_is_not_trusted(quick: DalleBlogConfig) -> None:
    sealed = Server(certificate=Path(__file__).parent / "self_signed.pem")
    base = sealed.url.replace("http:", "https:")
    asked = replace(quick, ignore_opt_out=True)  # no robots.txt first, which would fail likewise
    report = scrape(asked, source=PlainSource(base, captions=1, ranks=2))
    sealed.close()
    assert report.details["reasons"] == {"tls": 2}
    assert report.details["requests"] == 2
    assert not sealed.hits


def test_a_private_host_may_redirect_to_itself(server: Server, quick: DalleBlogConfig) -> None:
    async def redirects(ask: Ask) -> bytes:
        if ask.path.endswith("_0.png"):
            return answer(status=302, Location=f"{server.url}/moved.png")
        return answer(png(ask.path))

    server.behaviour = redirects
    assert scrape(quick, source=PlainSource(server.url)).counts["done"] == 12


def test_a_redirect_into_closed_robots_is_not_followed(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.robots = b"User-agent: *\nDisallow: /private/\n"

    async def redirects(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location="/private/x.png")
        return answer(png(ask.path))

    server.behaviour = redirects
    report = scrape(quick, source=PlainSource(server.url, captions=1))
    assert report.details["reasons"] == {"robots": 1}
    assert report.counts["opted_out"] == 1
