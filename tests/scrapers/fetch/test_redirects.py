"""Where redirects lead: at most five, never from a public host to a private one, at no hop."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from scrapers.fetch.client import MAX_REDIRECTS, Client
from scrapers.fetch.redirects import redirect_target
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import FetchError, Response
from tests.scrapers.fetch.test_private import PRIVATE, PUBLIC, Names, is_public
from tests.scrapers.raw_server import FETCHERS, PNG, Heard, RawServer, get_all, moved, ok, through

HOSTS = {"page.test": PUBLIC, "cdn.test": PUBLIC, "inner.test": PRIVATE, "own.test": PRIVATE}


def follow(hops: list[str], fetcher: str = "lanes") -> tuple[list[str], Response | FetchError]:
    """Ask at the first of `hops`, each of which redirects to the next; who was asked, what came."""

    def script(one: Heard) -> bytes:
        turn = int(one.target.strip(b"/"))
        if turn == len(hops) - 1:
            return ok()
        return moved(f"http://{hops[turn + 1]}:{server.port}/{turn + 1}".encode())

    async def ask() -> Response:
        names = Names(**{h.replace(".", "_"): [[at]] for h, at in HOSTS.items()})
        proxies = through(server) if fetcher == "session" else None
        async with Client(
            user_agent="x/1", resolver=names, is_public=is_public, proxies=proxies
        ) as client:
            (answer,) = await get_all(client, f"http://{hops[0]}:{server.port}/0")
            return answer

    found: Response | FetchError
    with RawServer(script, host="0.0.0.0") as server:
        try:
            found = asyncio.run(ask())
        except FetchError as error:
            found = error
        return [one.fields("Host")[0].partition(":")[0] for one in server.heard], found


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("public_hops", [1, 2, 3, MAX_REDIRECTS])
@pytest.mark.parametrize("end", ["inner.test", PRIVATE, "[::1]"])
def test_however_many_public_hosts_come_before_a_private_one_is_never_asked(
    public_hops: int, end: str, fetcher: str
) -> None:
    before = (["page.test", "cdn.test"] * 3)[:public_hops]
    asked, found = follow([*before, end], fetcher)
    assert isinstance(found, FetchError)
    assert found.reason == "redirect_to_private"
    assert asked == before


def test_a_private_host_that_leads_out_is_not_led_back_in() -> None:
    asked, found = follow(["own.test", "page.test", "inner.test"])
    assert isinstance(found, FetchError)
    assert (asked, found.reason) == (["own.test", "page.test"], "redirect_to_private")


@pytest.mark.parametrize(
    "hops", [["own.test", "inner.test"], ["own.test", "inner.test", "own.test", "page.test"]]
)
def test_private_hosts_may_lead_to_each_other_and_out(hops: list[str]) -> None:
    asked, found = follow(hops)
    assert isinstance(found, Response)
    assert (asked, found.body) == (hops, PNG)


@pytest.mark.parametrize("redirects", [0, 1, MAX_REDIRECTS - 1, MAX_REDIRECTS, MAX_REDIRECTS + 1])
def test_five_redirects_are_followed_and_no_sixth(redirects: int) -> None:
    assert MAX_REDIRECTS == 5
    asked, found = follow(["page.test"] * (redirects + 1))
    assert len(asked) == min(redirects, 5) + 1
    if redirects <= 5:
        assert isinstance(found, Response)
        assert found.status == 200
    else:
        assert isinstance(found, FetchError)
        assert found.reason == "redirects"


@pytest.mark.parametrize(
    ("status", "followed"),
    [(s, s in (301, 302, 303, 307, 308)) for s in (300, 301, 302, 303, 304, 305, 306, 307, 308)],
)
def test_exactly_these_statuses_are_redirects(status: int, followed: bool) -> None:
    def script(one: Heard) -> bytes:
        return moved(b"/b.png", status=status) if one.target == b"/a.png" else ok()

    async def ask() -> Response:
        async with Client(user_agent="x/1") as client:
            return await client.get(f"{server.url}/a.png")

    with RawServer(script) as server:
        answer = asyncio.run(ask())
        assert (answer.status, len(server.heard)) == ((200, 2) if followed else (status, 1))


TARGETS: Mapping[tuple[str, str], str | None] = {
    ("http://a.test/x/y", "z"): "http://a.test/x/z",
    ("http://a.test/x/y", "/z"): "http://a.test/z",
    ("http://a.test/x", "//b.test/z"): "http://b.test/z",
    ("http://a.test/x", "https://a.test/x"): "https://a.test/x",
    ("https://a.test/x", "https://b.test/z"): "https://b.test/z",
    ("https://a.test/x", "//b.test/z"): "https://b.test/z",
    ("https://a.test/x", "http://a.test/x"): None,
    ("https://a.test/x", "http://b.test/x"): None,
    ("http://a.test/x", "ftp://b.test/x"): None,
}


@pytest.mark.parametrize(("base", "location"), TARGETS)
def test_a_location_is_read_as_a_link_and_never_leaves_https(base: str, location: str) -> None:
    target = TARGETS[base, location]
    if target is not None:
        assert redirect_target(parse_address(base), location) == target
        return
    with pytest.raises(FetchError) as error:
        redirect_target(parse_address(base), location)
    assert error.value.reason == "bad_redirect"
