"""What is known of a host while a crawl lasts for days."""

from __future__ import annotations

import asyncio
import random

import pytest

from scrapers.fetch.client import Client
from scrapers.fetch.hosts import Hosts
from scrapers.fetch.pace import Backoff
from scrapers.fetch.robots_loading import ROBOTS_S
from tests.helpers.crawls import Server, answer

FORBIDS = answer(b"User-agent: *\nDisallow: /samples/\n")


async def a_day_later(
    server: Server, then: bytes | None, *, then_tdmrep: bytes | None = None, ignore: bool = False
) -> list[bool]:
    """Whether an image may be asked for: at first, a day later, and a moment after that.

    `then` and `then_tdmrep` are what the server answers for robots.txt and the TDMRep file after it
    was asked for the first time.
    """
    now = [0.0]
    async with Client(user_agent="dalle-pipeline/1") as client:
        hosts = Hosts(
            client=client,
            backoff=Backoff(base_s=0.001, cap_s=0.002),
            rng=random.Random(0),
            max_slots=4,
            rate=None,
            ignore_opt_out=ignore,
            monotonic=lambda: now[0],
        )
        url = f"{server.url}/samples/x_0.png"
        found = [await hosts.allows(url)]
        server.robots_answer, server.tdmrep_answer = then, then_tdmrep
        for later_s in (ROBOTS_S - 1, ROBOTS_S + 1):
            now[0] = later_s
            await hosts.renew_robots()
            found.append(hosts.of(url).allows(url))
        return found


def test_robots_are_asked_for_again_after_a_day(server: Server) -> None:
    assert asyncio.run(a_day_later(server, FORBIDS)) == [True, True, False]
    assert server.hits["/robots.txt"] == 2


@pytest.mark.parametrize("status", [500, 429])
def test_robots_that_can_not_be_had_after_a_day_stay_as_they_were(
    status: int, server: Server
) -> None:
    server.robots = b"User-agent: *\nDisallow: /other/\n"
    assert asyncio.run(a_day_later(server, answer(b"", status))) == [True, True, True]
    assert server.hits["/robots.txt"] > 2


@pytest.mark.parametrize("reserved", [0, 1])
def test_reservations_that_can_not_be_had_after_a_day_stay_as_they_were(
    reserved: int, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    file = f'[{{"location": "/samples/*", "tdm-reservation": {reserved}}}]'.encode()
    server.tdmrep_answer = answer(file)
    allowed = [not reserved] * 3
    assert asyncio.run(a_day_later(server, None, then_tdmrep=answer(b"", 503))) == allowed
    assert "its earlier rules still apply" in caplog.text


def test_reservations_that_are_withdrawn_after_a_day_reserve_nothing(server: Server) -> None:
    server.tdmrep_answer = answer(b'[{"location": "/samples/*", "tdm-reservation": 1}]')
    assert asyncio.run(a_day_later(server, None)) == [False, False, True]


def test_robots_that_are_ignored_are_not_asked_for(server: Server) -> None:
    assert asyncio.run(a_day_later(server, FORBIDS, ignore=True)) == [True, True, True]
    assert not server.hits
