"""Getting to a host: names, refusals, TLS, proxies; and the sentence that says which of them it was."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import logging
import os
import socket
import ssl
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from pipeline.core.errors import ConfigError, SourceError
from scrapers.fetch import session_head
from scrapers.fetch.client import Client
from scrapers.fetch.opening import open_client
from scrapers.fetch.proxies import Proxies, find_proxies
from scrapers.fetch.request_headers import GivenFields
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.tls import Trust
from scrapers.fetch.trouble import explain
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import PlainSource
from tests.scrapers.fetch.test_requests import Here
from tests.scrapers.raw_server import PNG, Heard, RawServer, get_all, ok

PEM = Path(__file__).parents[1] / "pem"
TRUST = Trust(ca_file=PEM / "ca.pem")


def tls(certificate: str = "server.pem", *, asks: bool = False) -> ssl.SSLContext:
    """What a server speaks TLS with; `asks` for a client's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PEM / certificate)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(PEM / "ca.pem")
    return context


def get(url: str, **options: Any) -> Response:
    """One image."""

    async def run() -> Response:
        options.setdefault("resolver", Here())
        async with Client(user_agent="dalle-pipeline/1", timeout_s=5, **options) as client:
            return (await get_all(client, url))[0]

    return asyncio.run(run())


def why(url: str, **options: Any) -> tuple[str, str, bool]:
    """Why it can't be fetched: reason, sentence, whether to try again."""
    with pytest.raises(FetchError) as error:
        get(url, **options)
    return error.value.reason, str(error.value), error.value.retry


class Names(AbstractResolver):
    """Every name ends in this error."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        raise self.error

    async def close(self) -> None: ...


def test_a_name_that_is_not_found_is_said_so() -> None:
    no_name = Names(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))
    assert why("http://nowhere.test/a", resolver=no_name) == (
        "name_not_found",
        "the name of nowhere.test:80 was not found: Name or service not known",
        True,
    )
    no_server = Names(socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"))
    reason, sentence, _ = why("https://nowhere.test/a", resolver=no_server)
    assert (reason, sentence[:45]) == (
        "no_name_server",
        "no name server responds for nowhere.test:443:",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_refused_connection_is_said_so() -> None:
    port = free_port()
    assert why(f"http://127.0.0.1:{port}/a") == (
        "refused",
        f"127.0.0.1:{port} refused the connection",
        True,
    )


class TwoPlaces(AbstractResolver):
    """Every name has two addresses; servers are only at the second."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=place, port=port, family=family, proto=0, flags=0)
            for place in ("127.0.0.9", "127.0.0.1")
        ]

    async def close(self) -> None: ...


def test_the_next_address_of_a_name_is_tried_if_one_refuses() -> None:
    async def ask(port: int) -> Response:
        async with Client(user_agent="x", resolver=TwoPlaces()) as client:
            return await client.get(f"http://two.test:{port}/a")

    with RawServer(lambda _: ok()) as server:
        assert asyncio.run(ask(server.port)).body == PNG


def test_a_connection_that_takes_too_long_is_said_so() -> None:
    async def ask(port: int) -> None:
        async with Client(user_agent="x", timeout_s=0.2) as client:
            await client.get(f"http://127.0.0.1:{port}/a")

    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        contextlib.ExitStack() as full,
    ):
        port = server.getsockname()[1]
        for _ in range(3):  # A full queue: the system answers no further connection.
            waiting = full.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        sentence = rf"no connection to 127\.0\.0\.1:{port} in time"
        with pytest.raises(FetchError, match=sentence) as error:
            asyncio.run(ask(port))
    assert (error.value.reason, error.value.retry) == ("timeout", True)


@pytest.mark.parametrize(
    ("error", "reason", "sentence"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), "unreachable", "no route to h:1"),
        (OSError(errno.ENETUNREACH, "x"), "unreachable", "no route to h:1"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "disconnected", "h:1 broke off the connection"),
        (
            OSError("Multiple exceptions: [Errno 101] no net, [Errno 111] Connect call failed"),
            "refused",
            "h:1 refused the connection",
        ),
        (OSError("odd"), "connection", "no connection to h:1: OSError: odd"),
        (ssl.SSLEOFError(8, "EOF occurred"), "tls", "TLS: h:1 ended the handshake"),
        (ValueError("odd"), "bad_url", "h:1 can't be requested: odd"),
    ],
)  # fmt: skip
def test_an_error_on_the_way_is_one_sentence(error: Exception, reason: str, sentence: str) -> None:
    found = explain(error, "h:1")
    assert (found.reason, str(found)) == (reason, sentence)


# --- TLS -----------------------------------------------------------------------------------------

FETCHERS = ("connections", "session")


def trusting(fetcher: str, **more: Any) -> dict[str, Any]:
    """Options that trust the tests' authority; a client's certificate makes it the session's work."""
    if fetcher == "connections":
        return {"trust": replace(TRUST, **more)}
    trust = replace(TRUST, client_cert=PEM / "client.pem", **more)
    return {"trust": trust, "given": GivenFields(hosts=frozenset({"localhost", "127.0.0.1"}))}


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_an_authority_of_the_user_is_trusted(fetcher: str) -> None:
    with RawServer(lambda _: ok(), tls=tls()) as server:
        assert get(f"{server.url}/a", **trusting(fetcher)).body == PNG
        assert get(f"https://localhost:{server.port}/a", **trusting(fetcher)).body == PNG


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize(
    ("certificate", "host", "ca", "problem"),
    [
        ("server.pem", "127.0.0.1", None, "unable to get local issuer certificate"),
        ("../self_signed.pem", "127.0.0.1", None, "self-signed certificate"),
        ("expired.pem", "127.0.0.1", PEM / "ca.pem", "certificate has expired"),
        ("server.pem", "other.example", PEM / "ca.pem", "Hostname mismatch"),
    ],
)
def test_a_certificate_that_is_not_trusted_says_why(
    certificate: str, host: str, ca: Path | None, problem: str, fetcher: str
) -> None:
    options = trusting(fetcher, ca_file=ca)
    if fetcher == "session":
        options["given"] = GivenFields(hosts=frozenset({host}))
    with RawServer(lambda _: ok(), tls=tls(certificate)) as server:
        found = why(f"https://{host}:{server.port}/a", **options)
    assert found[0] == "tls"
    assert found[1].startswith(f"TLS: the certificate of {host}:{server.port} is not trusted: ")
    assert problem in found[1]
    assert not found[2]


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_plain_http_behind_https_is_said_so(fetcher: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]

        def answer() -> None:
            connection, _ = plain.accept()
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        found = why(f"https://127.0.0.1:{port}/a", **trusting(fetcher))
    assert found == ("tls", f"TLS: 127.0.0.1:{port} doesn't speak it", False)


def test_a_client_certificate_is_shown_to_the_hosts_of_the_user_alone() -> None:
    options = trusting("session")
    with RawServer(lambda _: ok(), tls=tls(asks=True)) as server:
        assert get(f"https://localhost:{server.port}/a", **options).body == PNG
        reason, _, _ = why(f"https://other.test:{server.port}/a", **options)
    assert reason in ("tls", "disconnected")


def test_certificate_files_that_can_not_be_used_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    encrypted = PEM / "client_encrypted.pem"
    cases = [
        (Trust(ca_file=empty), f"--ca-file {empty} can't be used"),
        (Trust(ca_file=tmp_path / "none"), "--ca-file: .*none is missing"),
        (Trust(client_cert=PEM / "ca.pem"), "--client-cert .*ca.pem can't be used"),
        (Trust(client_cert=encrypted), "is encrypted. Give an unencrypted one"),
    ]
    for trust, sentence in cases:
        with pytest.raises(ConfigError, match=sentence):
            trust.check()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: .*none\.pem is missing"):
        Trust().check()


@pytest.mark.parametrize("option", ["ca_file", "client_cert", "client_key"])
def test_nothing_is_waited_for_in_place_of_a_certificate(tmp_path: Path, option: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    for file, found in ((tmp_path / "pipe", "a pipe"), (tmp_path, "a folder")):
        trust = replace(Trust(client_cert=PEM / "client.pem"), **{option: file})
        with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}: .* it is {found}"):
            trust.check()


def test_a_pipe_in_place_of_the_system_authorities_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "pipe"))
    with pytest.raises(ConfigError, match=r"SSL_CERT_FILE: .* it is a pipe"):
        Trust().check()


def test_the_authorities_of_the_environment_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM / "ca.pem"))
    with RawServer(lambda _: ok(), tls=tls()) as server:
        assert get(f"{server.url}/a").body == PNG


# --- Proxies -------------------------------------------------------------------------------------


def by(proxy: str, **options: Any) -> dict[str, Any]:
    """Everything through this proxy."""
    address = parse_address(proxy)
    proxies = Proxies(by_scheme={"http": address, "https": address}, loopback=True)
    return {"proxies": proxies, "trust": TRUST, **options}


def test_a_proxy_is_asked_for_the_whole_url() -> None:
    with RawServer(lambda _: ok()) as proxy:
        url = "http://images.example/a%2Bb.png?"
        assert get(url, **by(proxy.url.replace("//", "//us%40er:p%3Aw@"))).body == PNG
        (one,) = proxy.heard
    assert one.line == url.encode()
    assert one.fields("Host") == ["images.example"]
    (value,) = one.fields("Proxy-Authorization")
    assert base64.b64decode(value.removeprefix("Basic ")) == b"us@er:p:w"
    assert not one.fields("Authorization")


def test_this_aiohttp_has_the_internals_that_our_parser_needs() -> None:
    async def names() -> tuple[bool, bool]:
        connector = aiohttp.TCPConnector()
        async with aiohttp.ClientSession(connector=connector) as session:
            return hasattr(connector, "_factory"), hasattr(session, "_retry_connection")

    assert asyncio.run(names()) == (True, True)
    assert session_head._tolerant_handler() is not None


@pytest.mark.parametrize("framing", ["Content-Length: 600000", "Transfer-Encoding: chunked"])
def test_a_body_whose_end_arrived_while_reading_was_paused_ends(framing: str) -> None:
    """aiohttp pauses its parser when much is unread, perhaps before the end, and resumes it with b""."""

    async def read() -> bytes:
        handler = session_head._tolerant_handler()
        assert handler is not None
        protocol = handler(asyncio.get_running_loop())
        protocol.connection_made(asyncio.Transport())
        protocol.set_response_params(read_bufsize=1 << 16)
        body = bytes(600_000)
        if "chunked" in framing:
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        protocol.data_received(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing.encode() + body)
        _, content = await protocol.read()
        return bytes(await asyncio.wait_for(content.read(), 10))

    assert asyncio.run(read()) == bytes(600_000)


def test_a_proxy_works_with_an_aiohttp_that_has_other_internals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp.client_proto", None)
    session_head._tolerant_handler.cache_clear()
    body = b"5\r\nabcde\r\n0\r\n\r\n"
    head = b'HTTP/1.1 200 OK\r\nETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n'
    with RawServer(lambda _: head + body) as proxy:
        found = get("http://images.example/a.txt", **by(proxy.url))
    assert (found.status, found.body, found.etag) == (200, b"abcde", '"1"')
    session_head._tolerant_handler.cache_clear()


@pytest.mark.parametrize("sealed", [False, True])
def test_https_goes_through_a_tunnel(sealed: bool) -> None:
    with (
        RawServer(lambda _: ok(), tls=tls()) as server,
        RawServer(lambda _: ok(), tls=tls() if sealed else None, tunnel_to=server.port) as proxy,
    ):
        url = f"https://images.test:{server.port}/a.png?x=%2B"
        answer = get(url, **by(proxy.url.replace("//", "//user:pw@")))
        assert answer.body == PNG
        (connect,) = proxy.heard
        (asked,) = server.heard
    assert connect.raw.startswith(b"CONNECT images.test:%d HTTP/1.1\r\n" % server.port)
    assert connect.fields("Proxy-Authorization")
    # The site hears nothing of the proxy's user.
    assert asked.line == b"/a.png?x=%2B"
    assert not asked.fields("Proxy-Authorization")


PROXY_TROUBLE = {
    "HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n": (
        "responds with status 407: it requires a user and a password",
        False,
    ),
    "HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n": ("responds with status 502", True),
    "HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n": ("responds with status 403", False),
}


@pytest.mark.parametrize("answer", PROXY_TROUBLE)
def test_what_a_proxy_refuses_is_said_to_be_the_proxy(answer: str) -> None:
    sentence, retry = PROXY_TROUBLE[answer]
    with RawServer(lambda _: answer.encode(), tunnel_answer=answer.encode()) as proxy:
        found = why("https://images.test/a", **by(proxy.url))
        assert (found[0], found[2]) == ("proxy", retry)
        assert found[1].startswith(f"the proxy {proxy.url} {sentence}")
        if "407" in answer:
            assert why("http://images.test/a", **by(proxy.url))[0] == "proxy"
    port = free_port()
    found = why("http://images.test/a", **by(f"http://u:secret@127.0.0.1:{port}"))
    assert found == ("proxy", f"the proxy: 127.0.0.1:{port} refused the connection", True)


def hosts_by_proxy(proxies: Proxies, *urls: str) -> list[str]:
    """The host of the proxy of each URL, '-' for none."""
    found = (proxies.of(parse_address(url)) for url in urls)
    return [proxy.host if proxy else "-" for proxy in found]


def test_the_environment_names_proxies_as_curl_reads_them() -> None:
    environment = {
        "HTTP_PROXY": "http://upper:1",
        "http_proxy": "lower:2",
        "ALL_PROXY": "https://all:3",
        "NO_PROXY": "direct.test, .dotted.test,*.star.test,10.0.0.0/8 ported.test:8080 [::2]",
    }
    proxies = find_proxies(None, environment)
    asked = {
        "http://a.test/": "lower",
        "https://a.test/": "all",
        "http://direct.test/": "-",
        "http://sub.direct.test/": "-",
        "http://notdirect.test/": "lower",
        "http://dotted.test/": "-",
        "http://x.star.test/": "-",
        "http://10.1.2.3/": "-",
        "http://11.1.2.3/": "lower",
        "http://ported.test:8080/": "-",
        "http://ported.test/": "lower",
        "http://[::2]/": "-",
        # This machine is asked directly, unless the user says otherwise.
        "http://127.0.0.1:9/": "-",
        "http://localhost/": "-",
        "http://[::1]/": "-",
    }
    assert dict(zip(asked, hosts_by_proxy(proxies, *asked), strict=True)) == asked
    named = find_proxies("http://mine:3128", environment)
    assert hosts_by_proxy(named, "http://127.0.0.1/", "https://a.test/", "http://direct.test/") == [
        "mine",
        "mine",
        "-",
    ]
    everything = find_proxies(None, {"HTTPS_PROXY": "p:1", "no_proxy": "*"})
    assert hosts_by_proxy(everything, "https://a.test/", "http://a.test/") == ["-", "-"]
    # A header of somebody's request, where we run as a CGI program.
    assert not find_proxies(None, {"HTTP_PROXY": "p:1", "REQUEST_METHOD": "GET"}).by_scheme


@pytest.mark.parametrize("url", ["socks5://u:secret@h:1", "http://", "u:secret@h:port", "ftp://h"])
def test_a_proxy_that_can_not_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--proxy is .*; expected an HTTP proxy") as error:
        find_proxies(url, {})
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="ALL_PROXY is"):
        find_proxies(None, {"ALL_PROXY": url})


def test_a_crawl_goes_through_the_proxy_of_the_environment(
    quick: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(one: Heard) -> bytes:
        return b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n" if b"robots" in one.line else ok()

    with RawServer(script) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:secret@"))
        source = PlainSource("http://images.example", captions=2)
        report = scrape(replace(quick, no_page=True), source=source)
        lines = {one.line for one in proxy.heard}
    assert report.counts["done"] == 8
    assert b"http://images.example/robots.txt" in lines
    assert b"http://images.example/samples/things/c1_3.png" in lines


def test_options_that_contradict_each_other_are_refused(quick: DalleBlogConfig) -> None:
    with pytest.raises(ConfigError, match="--client-key is the key of --client-cert"):
        replace(quick, client_key=PEM / "client.pem")
    with pytest.raises(ConfigError, match="--proxy and --connect-to"):
        replace(quick, proxy="http://p:1", connect_to="127.0.0.1:1")
    with pytest.raises(ConfigError, match="--page-url can't be requested: a host name of"):
        open_client(replace(quick, page_url=f"http://{'a' * 64}.test/"))


def test_a_host_that_can_not_be_reached_is_said_at_once(
    quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sentence = f"{url} can't be reached: 127.0.0.1:{port} refused the connection"
    with caplog.at_level(logging.WARNING):
        report = scrape(quick, source=PlainSource(url))
    assert report.counts["pending"] == 12
    assert caplog.messages[0].startswith(f"{sentence}. Trying again in ")
    assert caplog.messages[-1] == f"{sentence}. Nothing is requested from this host for now."
    with pytest.raises(SourceError, match=sentence):
        scrape(quick, source=PlainSource(url, start_url=f"{url}/page"))
    sealed = replace(quick, workspace=quick.workspace / "tls", ca_file=PEM / "ca.pem")
    with RawServer(lambda _: ok(), tls=tls("expired.pem")) as server:
        source = PlainSource(server.url, start_url=f"{server.url}/page")
        with pytest.raises(SourceError, match="is not trusted: certificate has expired"):
            scrape(sealed, source=source)
