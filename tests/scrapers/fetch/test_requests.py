"""What a request says, over both fetchers: the URL byte for byte, users, cookies, fields, the Referer."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.core.errors import ConfigError
from scrapers.fetch.client import Client
from scrapers.fetch.cookies import CookieJar
from scrapers.fetch.request_headers import GivenFields, header_hosts, parse_fields
from scrapers.fetch.response import FetchError, Response
from tests.scrapers.raw_server import (
    FETCHERS,
    PNG,
    Heard,
    RawServer,
    Script,
    get_all,
    moved,
    ok,
    through,
)

Use = Callable[[Client, RawServer], Awaitable[Any]]


class Here(AbstractResolver):
    """Every name is at this machine, at the port of the URL."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None: ...


def use(fetcher: str, script: Script, work: Use, **options: Any) -> list[Heard]:
    """Let a client work with a server; gives what the server heard."""

    async def run(server: RawServer) -> None:
        proxies = through(server) if fetcher == "session" else None
        async with Client(
            user_agent="dalle-pipeline/1", resolver=Here(), proxies=proxies, **options
        ) as client:
            await work(client, server)

    with RawServer(script) as server:
        asyncio.run(run(server))
        return server.heard


AS_WRITTEN = [
    "/a%2Bb%2Fc%3D%3D_0.png",
    "/a%2bb/%7Ec+d=/x%20y.png?q=%C3%BC&r",
    "/x.png?sv=1&sig=a%2Bb%3D%3D",
    "/x.png?",
    "/x.png??",
    "/x.png?a=?&b=/../",
    "//x//y.png",
    "/a/../b/./c.png",
    "/%zz%2",
    "/a;b,c:d@e!$&'()*~|^`{}[]\"<>\\",
    "/%E9.png",
    "/",
]


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("target", AS_WRITTEN)
def test_a_target_is_asked_byte_for_byte(target: str, fetcher: str) -> None:
    heard = use(fetcher, lambda _: ok(), lambda c, s: get_all(c, s.url + target, s.url + target))
    assert [one.target for one in heard] == [target.encode()] * 2


ENCODED = {
    "/ü x.png": b"/%C3%BC%20x.png",
    "/a.png#part": b"/a.png",
    "/a.png?b#part": b"/a.png?b",
    "": b"/",
    "?a=1": b"/?a=1",
    "#part": b"/",
    "/a\tb\nc.png ": b"/abc.png",
    "/\x7f\x01.png": b"/%7F%01.png",
    "/\udce9.png": b"/%E9.png",
    "/\ud83d_1.png": b"/%EF%BF%BD_1.png",
    "/😀.png": b"/%F0%9F%98%80.png",
}


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("written", ENCODED)
def test_only_what_no_request_line_can_hold_is_encoded(written: str, fetcher: str) -> None:
    heard = use(fetcher, lambda _: ok(), lambda c, s: get_all(c, s.url + written))
    assert [one.target for one in heard] == [ENCODED[written]]


LOCATIONS = {
    b"/caf\xe9.png": b"/caf%E9.png",
    "/café.png".encode(): b"/caf%C3%A9.png",
    b"/a b.png": b"/a%20b.png",
    b"/a%2Bb.png?": b"/a%2Bb.png?",
    b"b.png?sig=%2B": b"/folder/b.png?sig=%2B",
    b"?only=query": b"/folder/a.png?only=query",
    b"../up.png": b"/up.png",
    b"#part": b"/folder/a.png?x=1",
    b"/t\xff\xfe\x80": b"/t%FF%FE%80",
    b"/long/" + b"x" * 20_000: b"/long/" + b"x" * 20_000,
}


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("location", LOCATIONS, ids=range(len(LOCATIONS)))
def test_a_location_is_asked_as_its_bytes(location: bytes, fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        return moved(location) if len(answered) < 1 and not answered.append(one) else ok()  # type: ignore[func-returns-value]

    answered: list[Heard] = []
    found: list[Response] = []

    async def work(client: Client, server: RawServer) -> None:
        found.extend(await get_all(client, f"{server.url}/folder/a.png?x=1"))

    heard = use(fetcher, script, work)
    assert [one.target for one in heard] == [b"/folder/a.png?x=1", LOCATIONS[location]]
    assert found[0].body == PNG
    assert found[0].final_url.endswith(LOCATIONS[location].decode())


HOSTS = {
    "HTTP://{at}/a.png": "127.0.0.1",
    "hTTp://LocalHost:{port}/a.png": "localhost",
    "http://bücher.test:{port}/a.png": "xn--bcher-kva.test",
    "http://b%C3%BCcher.test:{port}/a.png": "xn--bcher-kva.test",
    "http://faß.test:{port}/a.png": "xn--fa-hia.test",
    "http://MIXED.Case_Name.test:{port}/a.png": "mixed.case_name.test",
    "http://dot.test.:{port}/a.png": "dot.test.",
    "http://１２７.0.0.1:{port}/a.png": "127.0.0.1",
}


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("url", HOSTS)
def test_a_host_may_be_spelled_in_many_ways(url: str, fetcher: str) -> None:
    async def work(client: Client, server: RawServer) -> None:
        at = f"127.0.0.1:{server.port}"
        await get_all(client, url.format(at=at, port=server.port))
        hosts.append(f"{HOSTS[url]}:{server.port}")

    hosts: list[str] = []
    heard = use(fetcher, lambda _: ok(), work)
    assert [one.fields("Host") for one in heard] == [hosts]


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_user_in_the_url_goes_into_the_header_and_nowhere_else(fetcher: str) -> None:
    found: list[Response] = []

    async def work(client: Client, server: RawServer) -> None:
        at = server.url.removeprefix("http://")
        found.extend(await get_all(client, f"http://us%3Aer:p%40ss@{at}/a.png"))
        with pytest.raises(FetchError) as error:
            await get_all(client, f"http://user:secret@{at}:x/a.png")
        assert "secret" not in str(error.value)

    heard = use(fetcher, lambda _: ok(), work)
    assert [one.line.endswith(b"/a.png") and b"ss@" not in one.line for one in heard] == [True]
    (value,) = heard[0].fields("Authorization")
    assert base64.b64decode(value.removeprefix("Basic ")) == b"us:er:p@ss"
    assert found[0].final_url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_user_is_remembered_for_its_origin_alone(fetcher: str) -> None:
    async def work(client: Client, server: RawServer) -> None:
        client.remember_user(f"http://me:pw@one.test:{server.port}/page")
        await get_all(client, f"http://one.test:{server.port}/a.png")
        await get_all(client, f"http://two.test:{server.port}/a.png")
        await get_all(client, f"http://other:own@one.test:{server.port}/b.png")

    heard = use(fetcher, lambda _: ok(), work)
    sent = [one.fields("Authorization") for one in heard]
    mine = "Basic " + base64.b64encode(b"me:pw").decode()
    own = "Basic " + base64.b64encode(b"other:own").decode()
    assert sent == [[mine], [], [own]]


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_redirect_takes_no_user_along_to_another_origin(fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        if one.target == b"/a.png":
            port = one.fields("Host")[0].rpartition(":")[2]
            return moved(f"http://two.test:{port}/b.png".encode())
        return ok()

    async def work(client: Client, server: RawServer) -> None:
        await get_all(client, f"http://me:pw@one.test:{server.port}/a.png")

    heard = use(fetcher, script, work)
    assert [len(one.fields("Authorization")) for one in heard] == [1, 0]


# --- Cookies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_redirect_to_itself_that_sets_a_cookie_ends(fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        if "seen=1" in "".join(one.fields("Cookie")):
            return ok()
        return moved(one.target, b"Set-Cookie: seen=1; Path=/; HttpOnly")

    async def work(client: Client, server: RawServer) -> None:
        found = await get_all(client, f"{server.url}/a.png", f"{server.url}/b.png")
        assert [one.body for one in found] == [PNG] * 2

    assert len(use(fetcher, script, work)) == 3


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_cookies_go_back_to_their_host_and_path_alone(fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        return ok(
            PNG,
            b"Set-Cookie: host=1; Domain=test",
            b"Set-Cookie: deep=2; Path=/deep",
            b"Set-Cookie: safe=3; Secure",
            b"Set-Cookie: old=4; Max-Age=0",
            b"Set-Cookie: =nameless",
            b"Set-Cookie: long=" + b"x" * 5000,
        )

    async def work(client: Client, server: RawServer) -> None:
        for url in ("one.test:{}/a", "one.test:{}/deep/b", "one.test:{}/deeper", "two.test:{}/a"):
            await get_all(client, "http://" + url.format(server.port))

    heard = use(fetcher, script, work)
    assert [one.fields("Cookie") for one in heard] == [[], ["deep=2; host=1"], ["host=1"], []]


def test_a_cookie_ends_when_it_says(tmp_path: Path) -> None:
    now = [1000.0]
    jar = CookieJar(clock=lambda: now[0])
    jar.store("h", "/a", ["a=1; Max-Age=10", "b=2; Expires=Thu, 01-Jan-1970 00:30:00 GMT", "c=3"])
    assert jar.field("h", "/a", secure=False) == "a=1; b=2; c=3"
    now[0] = 1011.0
    assert jar.field("h", "/a", secure=False) == "b=2; c=3"
    now[0] = 1801.0
    assert jar.field("h", "/a", secure=False) == "c=3"
    jar.store("h", "/a", ["c=; Max-Age=-1"])
    assert jar.field("h", "/a", secure=False) is None
    assert jar.empty
    jar.store("h", "/", [f"n{number}={number}" for number in range(1000)])
    assert len((jar.field("h", "/", secure=False) or "").split("; ")) == 50


NETSCAPE = """# Netscape HTTP Cookie File
.test\tTRUE\t/\tFALSE\t0\tsession\tabc
one.test\tFALSE\t/x\tFALSE\t9999999999\tdeep\t"q=v"
#HttpOnly_one.test\tFALSE\t/\tFALSE\t0\thidden\tyes
one.test\tFALSE\t/\tTRUE\t0\tsafe\tonly-tls
one.test\tFALSE\t/\tFALSE\t5\tpast\tgone

"""


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_cookie_file_is_read_as_curl_writes_it(fetcher: str, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text(NETSCAPE)
    jar = CookieJar()
    jar.load(file)

    async def work(client: Client, server: RawServer) -> None:
        for url in ("one.test:{}/a", "one.test:{}/x/a", "two.test:{}/a", "other:{}/a"):
            await get_all(client, "http://" + url.format(server.port))

    heard = use(fetcher, lambda _: ok(), work, cookies=jar)
    assert [one.fields("Cookie") for one in heard] == [
        ["hidden=yes; session=abc"],
        ['deep="q=v"; hidden=yes; session=abc'],
        ["session=abc"],
        [],
    ]


@pytest.mark.parametrize(
    "line",
    ["one.test FALSE / FALSE 0 a secret", "a\tb\tc\td\tsecret\tf\tg", "a\tTRUE\t/\tTRUE\t0\tx"],
)
def test_a_line_that_is_no_cookie_is_named_without_its_value(line: str, tmp_path: Path) -> None:
    file = tmp_path / "cookies.txt"
    file.write_text("# ok\n" + line)
    with pytest.raises(ConfigError, match="line 2 is not a cookie: expected 7 columns") as error:
        CookieJar().load(file)
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match=r"none\.txt is missing"):
        CookieJar().load(tmp_path / "none.txt")


# --- The user's own fields -----------------------------------------------------------------------


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_given_fields_go_to_the_hosts_of_the_user_alone(fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        if one.target == b"/moved":
            port = one.fields("Host")[0].rpartition(":")[2]
            return moved(f"http://elsewhere.test:{port}/x".encode(), b"Set-Cookie: own=1")
        return ok()

    async def work(client: Client, server: RawServer) -> None:
        at = f"one.test:{server.port}"
        await get_all(client, f"http://{at}/a", f"http://{at}/moved", f"http://{at}/b")
        await get_all(client, f"http://cdn.test:{server.port}/c")

    fields = parse_fields(
        ["X-Key: s3cret ü", "Cookie: a=1", "Accept: image/*", "x-key: twice", "Referer: http://r/"]
    )
    given = GivenFields(fields=fields, hosts=frozenset({"one.test"}))
    heard = use(fetcher, script, work, given=given)
    assert [one.fields("X-Key") for one in heard] == [
        ["s3cret ü", "twice"], ["s3cret ü", "twice"], [], ["s3cret ü", "twice"], []
    ]  # fmt: skip
    assert [one.fields("Cookie") for one in heard] == [
        ["a=1"], ["a=1"], [], ["a=1; own=1"], []
    ]  # fmt: skip
    assert [one.fields("Accept") for one in heard] == [
        ["image/*"], ["image/*"], ["*/*"], ["image/*"], ["*/*"]
    ]  # fmt: skip
    assert [one.fields("Referer") for one in heard] == [
        ["http://r/"], ["http://r/"], [], ["http://r/"], []
    ]  # fmt: skip


def test_hosts_for_given_fields_are_names_or_names_with_a_port() -> None:
    hosts = header_hosts(["CDN.example.org", "bücher.test:8080", "[::1]:9"])
    assert hosts == {"cdn.example.org", "xn--bcher-kva.test:8080", "::1:9"}
    with pytest.raises(ConfigError, match="--header-host 'a b' is not a host"):
        header_hosts(["a b"])


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("no colon s3cret", "--header number 2 doesn't have the form"),
        (": s3cret", "--header number 2"),
        ("Bad Name: s3cret", "--header number 2"),
        ("X-A: s3cret\r\nHost: other", "--header number 2"),
        ("X-A: s3cret\0", "--header number 2"),
        ("X-A: s3cret\udce9", "--header number 2"),
        ("Host: s3cret", "--header Host: the crawl sets this one itself"),
        ("content-length: 3", "--header content-length"),
        ("User-Agent: s3cret", "give --contact"),
    ],
)
def test_a_field_that_can_not_be_sent_is_refused_without_its_value(line: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        parse_fields(["X-Good: 1", line])
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_the_page_is_the_referer_of_its_images(fetcher: str) -> None:
    async def work(client: Client, server: RawServer) -> None:
        page = f"http://page.test:{server.port}/blog/?token=x"
        await client.get(page)
        client.show_page(page)
        await get_all(client, f"http://page.test:{server.port}/a.png")
        await get_all(client, f"http://cdn.test:{server.port}/b.png")
        await client.get(f"http://page.test:{server.port}/robots.txt")
        client.show_page("https://page.test/blog/")
        await get_all(client, f"http://cdn.test:{server.port}/c.png")

    heard = use(fetcher, lambda _: ok(), work)
    port = heard[0].fields("Host")[0].rpartition(":")[2]
    assert [one.fields("Referer") for one in heard] == [
        [],
        [f"http://page.test:{port}/blog/?token=x"],
        [f"http://page.test:{port}/"],
        [],
        [],
    ]
