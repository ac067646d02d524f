"""What a public page names is on the public internet: not the user's own network, at no look."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from scrapers.config import ScrapeConfig
from scrapers.fetch.client import Client
from scrapers.fetch.opening import open_client
from scrapers.fetch.redirects import is_public_address
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.resolving import Addresses, PrivateAddressError
from scrapers.fetch.response import FetchError
from scrapers.scrape import scrape
from scrapers.source import CaptionForm, CaptionPlan
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import PlainSource, Server, states
from tests.scrapers.raw_server import PNG, RawServer, get_all, moved, ok, through

# 127.0.0.2 stands for an address of the public internet.
PUBLIC, PRIVATE = "127.0.0.2", "127.0.0.1"


def is_public(address: str) -> bool:
    return address == PUBLIC


class Names(AbstractResolver):
    """Names with the addresses that each look finds, the last one for ever."""

    def __init__(self, **names: list[list[str]]) -> None:
        self.names = {name.replace("_", "."): looks for name, looks in names.items()}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        looks = self.names[host]
        found = looks.pop(0) if len(looks) > 1 else looks[0]
        return [
            ResolveResult(hostname=host, host=at, port=0, family=family, proto=0, flags=0)
            for at in found
        ]

    async def close(self) -> None: ...


@pytest.fixture
def everywhere() -> Iterator[Server]:
    made = Server(host="0.0.0.0")
    yield made
    made.close()


@dataclass
class Listed(PlainSource):
    """One image at each URL."""

    urls: tuple[str, ...] = ()

    def plans(self) -> Iterator[CaptionPlan]:
        for url in self.urls:
            forms = (CaptionForm(caption=url, url_template=url),)
            yield CaptionPlan(section="s", forms=forms, ranks=(0,), masked=False)


def crawl(
    config: DalleBlogConfig, server: Server, page: str | None, hosts: list[str], **names: Any
) -> dict[str, tuple[str, str | None]]:
    """Crawl an image at each host, named by a page at the host `page`: state and reason by host."""
    start = None if page is None else f"http://{page}:{server.port}/page"
    urls = tuple(f"http://{host}:{server.port}/a.png" for host in hosts)
    source = Listed("", start_url=start, urls=urls, captions=len(urls), ranks=1)

    def make_client(found: ScrapeConfig) -> Client:
        return Client(user_agent="x/1", resolver=Names(**names), is_public=is_public)

    scrape(config, source=source, make_client=make_client)
    found = states(config.workspace)
    return {host: found[url] for host, url in zip(hosts, urls, strict=True)}


def asked_hosts(server: Server) -> set[str]:
    return {headers["host"].rpartition(":")[0] for _, headers in server.asked}


def test_a_public_page_names_no_private_images(everywhere: Server, quick: DalleBlogConfig) -> None:
    hosts = ["page.test", "cdn.test", "inner.test", "127.0.0.1", "[::1]", "mixed.test"]
    found = crawl(
        quick,
        everywhere,
        "page.test",
        hosts,
        page_test=[[PUBLIC]],
        cdn_test=[[PUBLIC]],
        inner_test=[[PRIVATE]],
        mixed_test=[[PRIVATE, PUBLIC]],
    )
    refused = ("failed", "private_address")
    assert found == {
        "page.test": ("done", None),
        "cdn.test": ("done", None),
        "inner.test": refused,
        "127.0.0.1": refused,
        "[::1]": refused,
        "mixed.test": ("done", None),
    }
    # Not even their robots.txt was asked for.
    assert asked_hosts(everywhere) == {"page.test", "cdn.test", "mixed.test"}


def test_without_robots_a_private_image_is_not_asked_either(
    everywhere: Server, quick: DalleBlogConfig
) -> None:
    found = crawl(
        replace(quick, ignore_opt_out=True),
        everywhere,
        "page.test",
        ["127.0.0.1", "inner.test"],
        page_test=[[PUBLIC]],
        inner_test=[[PRIVATE]],
    )
    assert set(found.values()) == {("failed", "private_address")}
    assert asked_hosts(everywhere) == {"page.test"}


def test_a_kept_page_is_held_to_the_same_rule(everywhere: Server, quick: DalleBlogConfig) -> None:
    names: dict[str, Any] = {"page_test": [[PUBLIC]]}
    assert crawl(quick, everywhere, "page.test", ["page.test"], **names)
    more = replace(quick, limit=9)
    found = crawl(more, everywhere, "page.test", ["page.test", "127.0.0.1"], **names)
    assert found["127.0.0.1"] == ("failed", "private_address")
    assert everywhere.hits["/page"] == 1


def test_a_private_page_names_what_it_likes(everywhere: Server, quick: DalleBlogConfig) -> None:
    found = crawl(
        quick,
        everywhere,
        "page.test",
        ["127.0.0.1", "inner.test"],
        page_test=[[PRIVATE]],
        inner_test=[[PRIVATE]],
    )
    assert set(found.values()) == {("done", None)}


def test_hosts_that_the_user_names_may_be_anywhere(
    everywhere: Server, quick: DalleBlogConfig
) -> None:
    cdn = replace(quick, cdn_url=f"http://inner.test:{everywhere.port}/x")
    found = crawl(
        cdn,
        everywhere,
        "page.test",
        ["inner.test", "127.0.0.1"],
        page_test=[[PUBLIC]],
        inner_test=[[PRIVATE]],
    )
    assert found == {"inner.test": ("done", None), "127.0.0.1": ("failed", "private_address")}
    built_in = replace(quick, workspace=quick.workspace / "built-in")
    assert crawl(built_in, everywhere, None, ["127.0.0.1"])["127.0.0.1"] == ("done", None)


def test_a_saved_page_counts_as_a_public_one(everywhere: Server, quick: DalleBlogConfig) -> None:
    page = quick.workspace / "page.html"
    page.parent.mkdir(parents=True)
    page.write_text("<html>")
    saved = replace(quick, page=page)
    assert crawl(saved, everywhere, None, ["127.0.0.1"])["127.0.0.1"] == (
        "failed",
        "private_address",
    )
    here = replace(
        saved, workspace=quick.workspace / "here", page_url=f"http://127.0.0.1:{everywhere.port}/"
    )
    assert crawl(here, everywhere, None, ["127.0.0.1"])["127.0.0.1"] == ("done", None)


def test_connect_to_sends_everything_there(everywhere: Server, quick: DalleBlogConfig) -> None:
    start = "http://page.test/page"
    urls = ("http://cdn.test/a.png", "http://10.1.2.3/b.png", "http://127.0.0.9:1/c.png")
    source = Listed("", start_url=start, urls=urls, captions=3, ranks=1)
    config = replace(quick, connect_to=f"localhost:{everywhere.port}")
    assert scrape(config, source=source).counts["done"] == 3
    assert {headers["host"] for _, headers in everywhere.asked} == {
        "page.test",
        "cdn.test",
        "10.1.2.3",
        "127.0.0.9:1",
    }


# --- A second look -------------------------------------------------------------------------------


def test_a_name_that_was_public_is_never_private_later() -> None:
    now = [0.0]
    names = Names(turns_test=[[PUBLIC], [PRIVATE], [PUBLIC, PRIVATE], [PRIVATE]])
    addresses = Addresses(names, is_public, clock=lambda: now[0])

    async def look() -> list[str]:
        now[0] += 1000.0
        found = await addresses.look_up("turns.test", public_only=False)
        return [entry["host"] for entry in found]

    async def run() -> None:
        assert await look() == [PUBLIC]
        with pytest.raises(PrivateAddressError):
            await look()
        assert await look() == [PUBLIC]
        with pytest.raises(PrivateAddressError, match=r"at a private address \(127\.0\.0\.1\)"):
            await look()
        await addresses.close()

    asyncio.run(run())


def test_names_are_looked_up_once_for_all_who_ask() -> None:
    class Counting(Names):
        asked = 0

        async def resolve(self, *args: Any, **options: Any) -> list[ResolveResult]:
            self.asked += 1
            await asyncio.sleep(0)
            return await super().resolve(*args, **options)

    names = Counting(a_test=[[PUBLIC]])

    async def run() -> None:
        addresses = Addresses(names, is_public)
        looks = (addresses.look_up("a.test", public_only=False) for _ in range(50))
        await asyncio.gather(*looks)
        await addresses.look_up("a.test", public_only=True)
        await addresses.close()

    asyncio.run(run())
    assert names.asked == 1


def test_a_connection_goes_to_the_address_that_was_looked_at(everywhere: Server) -> None:
    # The second look is a private one; the connection of the first is closed.
    names = Names(turns_test=[[PUBLIC], [PRIVATE]])

    async def run() -> None:
        async with Client(user_agent="x", resolver=names, is_public=is_public) as client:
            client._addresses._clock = lambda: now[0]
            url = f"http://turns.test:{everywhere.port}/a.png"
            assert (await client.get(url)).status == 200
            now[0] += 1000.0
            for connection in list(client._connections._connections):  # type: ignore[attr-defined]
                connection.close()
            await asyncio.sleep(0)
            await client.get(url)

    now = [0.0]
    with pytest.raises(FetchError) as error:
        asyncio.run(run())
    assert error.value.reason == "private_address"
    assert everywhere.hits["/a.png"] == 1


@pytest.mark.parametrize("target", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "10.0.0.1"])
def test_behind_a_proxy_a_public_host_can_not_send_us_inside(target: str) -> None:
    async def run(proxy: RawServer) -> None:
        names = Names(page_test=[[PUBLIC]], localhost=[[PRIVATE]])
        async with Client(
            user_agent="x", resolver=names, is_public=is_public, proxies=through(proxy)
        ) as client:
            with pytest.raises(FetchError) as error:
                await get_all(client, "http://page.test/a.png")
            assert error.value.reason == "redirect_to_private"
            with pytest.raises(FetchError) as error:
                await client.get(f"http://{target}/b.png", public_only=True)
            assert error.value.reason == "private_address"

    with RawServer(lambda _: moved(f"http://{target}/x".encode())) as proxy:
        asyncio.run(run(proxy))
        assert proxy.targets == [b"/a.png"]


def test_behind_a_proxy_names_are_its_own_business() -> None:
    class Nothing(Names):
        async def resolve(self, *args: Any, **options: Any) -> list[ResolveResult]:
            raise socket.gaierror(socket.EAI_AGAIN, "no name server")

    async def run(proxy: RawServer) -> None:
        async with Client(user_agent="x", resolver=Nothing(), proxies=through(proxy)) as client:
            answer = await client.get("http://page.test/a.png", public_only=True)
            assert answer.body == PNG
            assert await client.is_public_host("http://page.test/")

    with RawServer(lambda _: ok()) as proxy:
        asyncio.run(run(proxy))


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("0.0.0.0", False),
        ("::1", False),
        ("::", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        # Addresses that stand for another one.
        ("::ffff:127.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("::127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("no address", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert is_public_address(address) is public


def test_what_the_user_names_is_known_by_its_host(quick: DalleBlogConfig) -> None:
    config = replace(
        quick,
        page_url="HTTP://Me:pw@Page.test:8080/x",
        cdn_url="http://bücher.test/y",
        header_host=("more.test",),
        header=("X-A: 1",),
    )
    given = open_client(config)._given
    assert given.hosts == {"page.test:8080", "xn--bcher-kva.test:80", "more.test"}
    assert given.go_to(parse_address("http://page.test:8080/"))
    assert not given.go_to(parse_address("http://page.test/"))
