"""What real servers send, one line a case, over both fetchers: what is taken, and under which reason not."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator

import brotli
import pytest
from backports import zstd

from scrapers.fetch import content_encodings as inflating
from scrapers.fetch.client import Client
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import FetchError, Response
from tests.scrapers.raw_server import (
    FETCHERS,
    PNG,
    Heard,
    RawServer,
    get_all,
    moved,
    ok,
    through,
)

GZIP = gzip.compress(PNG)


def raw_deflate(body: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(body) + deflater.flush()


def aws(body: bytes) -> bytes:
    """The framing of a signed upload."""
    sign = b";chunk-signature=" + b"a" * 64 + b"\r\n"
    parts = [body[at : at + 1000] for at in range(0, len(body), 1000)]
    return b"".join(b"%x%b%b\r\n" % (len(p), sign, p) for p in parts) + b"0" + sign + b"\r\n"


def coded(name: bytes, body: bytes = PNG) -> bytes:
    return ok(body, b"Content-Encoding: " + name)


def chunked(body: bytes, size: int = 700) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return framed + b"0\r\n\r\n"


def byte_by_byte(data: bytes, first: int = 200) -> Iterator[bytes]:
    yield from (data[at : at + 1] for at in range(first))
    yield data[first:]


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
EVERY_BYTE = bytes(b for b in range(1, 256) if b not in (10, 13))

# The image comes whole.
TAKEN: dict[str, bytes] = {
    # Content-Encoding
    "none": coded(b"none"),
    "binary": coded(b"binary"),
    "utf_8": coded(b"UTF-8"),
    "identity_twice": ok(PNG, b"Content-Encoding: identity", b"Content-Encoding: identity"),
    "empty_encoding": coded(b""),
    "unknown_encoding": coded(b"x-mystery"),
    "gzip": coded(b"gzip", GZIP),
    "x_gzip_in_capitals": coded(b"X-GZIP", GZIP),
    "gzip_of_several_members": coded(b"gzip", gzip.compress(PNG[:9]) + gzip.compress(PNG[9:])),
    "gzip_with_zeros_behind": coded(b"gzip", GZIP + bytes(300)),
    "gzip_with_text_behind": coded(b"gzip", GZIP + b"<!-- served by x -->"),
    "gzip_without_its_trailer": coded(b"gzip", GZIP[:-8]),
    "gzip_with_a_wrong_checksum": coded(b"gzip", GZIP[:-8] + bytes(8)),
    "gzip_of_gzip_labelled_once": coded(b"gzip", gzip.compress(GZIP)),
    "gzip_twice": coded(b"gzip, gzip", gzip.compress(GZIP)),
    "gzip_label_on_a_plain_image": coded(b"gzip"),
    "deflate_label_on_a_plain_image": coded(b"deflate"),
    "br_label_on_a_plain_image": coded(b"br"),
    "gzip_without_a_label": ok(GZIP),
    "gzip_labelled_as_br": coded(b"br", GZIP),
    "gzip_labelled_as_deflate": coded(b"deflate", GZIP),
    "deflate": coded(b"deflate", zlib.compress(PNG)),
    "raw_deflate": coded(b"deflate", raw_deflate(PNG)),
    "deflate_without_its_checksum": coded(b"deflate", zlib.compress(PNG)[:-4]),
    "br": coded(b"br", brotli.compress(PNG)),
    "zstd": coded(b"zstd", zstd.compress(PNG)),
    "aws_chunked_label_alone": coded(b"aws-chunked"),
    "aws_chunked": coded(b"aws-chunked", aws(PNG)),
    "aws_chunked_gzip": coded(b"aws-chunked,gzip", aws(GZIP)),
    "gzip_aws_chunked": coded(b"gzip, aws-chunked", aws(GZIP)),
    "aws_chunked_label_on_gzip": coded(b"aws-chunked, gzip", GZIP),
    # Framing
    "chunked": CHUNKED + b"\r\n" + chunked(PNG),
    "chunked_by_two_bytes": CHUNKED + b"\r\n" + chunked(PNG, 2),
    "chunked_with_extensions": CHUNKED + b"\r\n" + chunked(PNG).replace(b"2bc\r\n", b"2bc ; a=b\r\n"),
    "chunked_with_zeros_before": CHUNKED + b"\r\n" + chunked(PNG).replace(b"2bc\r\n", b"00002bc\r\n"),
    "chunked_and_a_length": CHUNKED + b"Content-Length: 5\r\n\r\n" + chunked(PNG),
    "chunked_in_capitals": CHUNKED.replace(b"chunked", b"Chunked") + b"\r\n" + chunked(PNG),
    "chunked_gzip": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n" + chunked(GZIP),
    "chunked_with_a_trailer": CHUNKED + b"\r\n" + chunked(PNG)[:-2] + b"X-T: 1\r\n\r\n",
    "until_the_end": b"HTTP/1.1 200 OK\r\n\r\n" + PNG,
    "identity_until_the_end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n" + PNG,
    "http_1_0": b"HTTP/1.0 200 OK\r\n\r\n" + PNG,
    "bytes_behind_the_length": ok(PNG + b"more", length=len(PNG)),
    "two_equal_lengths": ok(PNG, b"Content-Length: %d" % len(PNG)),
    "two_equal_lengths_in_one_field": ok(PNG).replace(b"3032", b"3032, 3032"),
    # Heads
    "a_head_of_9_kb": ok(PNG, b"Set-Cookie: a=" + b"x" * 9000),
    "a_head_of_just_under_64_kb": ok(PNG, b"X-Long: " + b"x" * 65_400),
    "two_hundred_fields": ok(PNG, *(b"X-%d: %d" % (n, n) for n in range(200))),
    "three_thousand_fields": ok(PNG, *(b"X-%d: %d" % (n, n) for n in range(3000))),
    "early_hints": b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + ok(PNG),
    "no_reason": ok(PNG).replace(b" 200 OK", b" 200"),
    "a_long_reason": ok(PNG).replace(b"OK", b"Es ist alles g\xfct " * 50),
    "lf_alone": ok(PNG).replace(b"\r\n", b"\n", 3),
    "a_folded_field": ok(PNG, b"X-Folded: a", b"  b: c", b"\td"),
    "a_line_without_a_colon": ok(PNG, b"what is this"),
    "a_field_without_a_name": ok(PNG, b": nameless"),
    "a_blank_before_the_colon": ok(PNG).replace(b"Length:", b"Length :"),
    "no_blank_behind_the_colon": ok(PNG).replace(b"Length: ", b"Length:"),
    "names_in_capitals": ok(PNG).replace(b"Content-Length", b"CONTENT-LENGTH"),
    "raw_bytes_in_a_field": ok(PNG, b"X-Name: caf\xe9 " + EVERY_BYTE),
    "raw_bytes_in_a_name": ok(PNG, b"X-caf\xe9: 1"),
    "nul_in_a_field": ok(PNG, b"X-Nul: a\0b"),
    "a_cookie_of_raw_bytes": ok(PNG, b"Set-Cookie: a=\xe9; Path=/"),
}  # fmt: skip

# What it is not, and whether another try may help.
REFUSED: dict[str, tuple[bytes, str, bool]] = {
    "two_lengths": (ok(PNG, b"Content-Length: 9"), "bad_http", True),
    "no_length": (ok(PNG).replace(b"3032", b"many"), "bad_http", True),
    "a_negative_length": (ok(PNG).replace(b"3032", b"-1"), "bad_http", True),
    "a_length_of_5000_digits": (ok(PNG).replace(b"3032", b"9" * 5000), "bad_http", True),
    "a_claimed_terabyte": (ok(PNG).replace(b"3032", b"1099511627776"), "too_large", True),
    "a_head_beyond_64_kb": (ok(PNG, b"X-Long: " + b"x" * 66_000), "bad_http", True),
    "no_http": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "bad_http", True),
    "http_2": (b"HTTP/2 200 OK\r\nContent-Length: 1\r\n\r\nx", "bad_http", True),
    "a_status_of_letters": (b"HTTP/1.1 OK 200\r\n\r\n", "bad_http", True),
    "nothing": (b"", "disconnected", True),
    "half_a_head": (ok(PNG)[:30], "disconnected", True),
    "half_a_body": (ok(PNG)[:900], "truncated", True),
    "half_a_chunk": (CHUNKED + b"\r\n" + chunked(PNG)[:900], "truncated", True),
    "no_last_chunk": (CHUNKED + b"\r\n" + chunked(PNG)[:-5], "truncated", True),
    "a_bad_chunk": (CHUNKED + b"\r\nzz\r\nabc\r\n", "truncated", True),
    "a_negative_chunk": (CHUNKED + b"\r\n-5\r\nabc\r\n", "truncated", True),
    "countless_chunks": (CHUNKED + b"\r\n" + b"1\r\na\r\n" * (2**18 + 1), "truncated", True),
    "half_a_gzip": (coded(b"gzip", GZIP[:40]), "truncated", True),
    "half_an_aws_chunk": (coded(b"aws-chunked", aws(PNG)[:2000]), "truncated", True),
    "gzip_of_nothing_like_it": (coded(b"gzip", b"\x1f\x8b\x08\0" + b"\xff" * 40), "bad_body", True),
    "too_many_gzip_members": (coded(b"gzip", gzip.compress(b"") * 99), "bad_body", True),
    "a_gzip_bomb": (coded(b"gzip", gzip.compress(bytes(30 * 2**20))), "too_large", True),
    "a_br_bomb": (coded(b"br", brotli.compress(bytes(30 * 2**20))), "too_large", True),
    "a_zstd_bomb": (coded(b"zstd", zstd.compress(bytes(30 * 2**20))), "too_large", True),
    "a_redirect_to_nowhere": (moved(b"").replace(b"Location", b"X"), "redirect_without_location", True),
    "a_redirect_to_ftp": (moved(b"ftp://example.org/x"), "bad_redirect", True),
    "a_redirect_to_a_long_label": (moved(b"http://" + b"a" * 64 + b".test/"), "bad_redirect", True),
    "a_redirect_to_a_long_idn_label": (moved(b"http://" + b"\xc3\xbc" * 64), "bad_redirect", True),
    "a_redirect_to_a_long_name": (moved(b"http://" + b"a." * 200 + b"test/"), "bad_redirect", True),
    "a_redirect_to_a_raw_byte_as_host": (moved(b"http://caf\xe9.test/"), "bad_redirect", True),
    "a_redirect_to_half_a_bracket": (moved(b"http://[::1/"), "bad_redirect", True),
    "a_redirect_to_no_port": (moved(b"http://x.test:port/"), "bad_redirect", True),
    "a_redirect_to_a_backslash": (moved(b"http://x.test\\@127.0.0.1/"), "bad_redirect", True),
    "a_redirect_to_an_empty_host": (moved(b"http:///x"), "bad_redirect", True),
}  # fmt: skip


def ask_twice(fetcher: str, sent: bytes, *, closes: bool) -> list[Response]:
    """What a client gets that asks a server for two images, each answered with `sent`."""

    async def run(server: RawServer) -> list[Response]:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="dalle-pipeline/1", timeout_s=200, proxies=proxies) as client:
            return await get_all(client, f"{server.url}/a.png", f"{server.url}/b.png")

    with RawServer(lambda _: sent, closes=closes) as server:
        return asyncio.run(run(server))


def test_the_bodies_of_the_cases_are_as_long_as_they_say() -> None:
    assert len(PNG) == 3032
    assert b"2bc\r\n" in chunked(PNG)


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("case", TAKEN)
def test_an_image_is_taken_however_it_comes(case: str, fetcher: str) -> None:
    found = ask_twice(fetcher, TAKEN[case], closes=True)
    assert [(one.status, one.body) for one in found] == [(200, PNG)] * 2


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_head_may_come_byte_by_byte(fetcher: str) -> None:
    async def run(server: RawServer) -> Response:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="x", proxies=proxies) as client:
            return (await get_all(client, f"{server.url}/a.png"))[0]

    sent = ok(PNG, b"X-Long: " + b"x" * 300)
    with RawServer(lambda _: byte_by_byte(sent)) as server:
        assert asyncio.run(run(server)).body == PNG


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_taken_says_why(case: str, fetcher: str) -> None:
    sent, reason, retry = REFUSED[case]
    with pytest.raises(FetchError) as error:
        ask_twice(fetcher, sent, closes=True)
    assert (error.value.reason, error.value.retry) == (reason, retry)


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_kept_connection_that_is_closed_is_asked_again_at_once(fetcher: str) -> None:
    # It says keep-alive and closes behind every answer.
    found = []

    async def run(server: RawServer) -> None:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="x", proxies=proxies) as client:
            for number in range(30):
                found.extend(await get_all(client, f"{server.url}/{number}.png"))

    with RawServer(lambda _: ok(PNG), closes=True) as server:
        asyncio.run(run(server))
        assert [one.body for one in found] == [PNG] * 30
        assert len(server.heard) == 30


@pytest.mark.parametrize("fetcher", FETCHERS)
def test_a_request_that_kills_its_connection_is_asked_twice_and_no_more(fetcher: str) -> None:
    def script(one: Heard) -> bytes:
        if one.target == b"/poison.png":
            raise ConnectionError
        return ok(PNG)

    async def run(server: RawServer) -> None:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="x", proxies=proxies) as client:
            await asyncio.gather(*(get_all(client, f"{server.url}/{n}.png") for n in range(8)))
            with pytest.raises(FetchError) as error:
                await get_all(client, f"{server.url}/poison.png")
            assert (error.value.reason, error.value.sign) == ("disconnected", "down")

    with RawServer(script) as server:
        asyncio.run(run(server))
        assert server.targets.count(b"/poison.png") == 2


WITHOUT = {"br": brotli.compress(PNG), "zstd": zstd.compress(PNG)}


@pytest.mark.parametrize("name", WITHOUT)
def test_an_encoding_without_a_package_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(module: str) -> None:
        raise ImportError(module)

    monkeypatch.setattr(inflating, "import_module", absent)
    with pytest.raises(FetchError, match=f"{name}; to read it install") as error:
        ask_twice("connections", coded(name.encode(), WITHOUT[name]), closes=True)
    assert (error.value.reason, error.value.retry) == ("encoded_body", True)
    # The label alone does no harm.
    assert ask_twice("connections", coded(name.encode()), closes=True)[0].body == PNG


def test_nothing_is_asked_for_that_may_not_be_readable() -> None:
    async def run(server: RawServer) -> None:
        async with Client(user_agent="x") as client:
            await get_all(client, f"{server.url}/a.png")

    with RawServer(lambda _: ok(PNG)) as server:
        asyncio.run(run(server))
        assert server.heard[0].fields("Accept-Encoding") == ["identity"]


TEXT = b"User-agent: *\nDisallow: /private/\n" * 20
TEXTS = {
    "plain": ok(TEXT),
    "none": coded(b"none", TEXT),
    "gzip": coded(b"gzip", gzip.compress(TEXT)),
    "gzip_without_a_label": ok(gzip.compress(TEXT)),
    "gzip_label_alone": coded(b"gzip", TEXT),
    "raw_deflate": coded(b"deflate", raw_deflate(TEXT)),
    "aws_chunked": coded(b"aws-chunked", aws(TEXT)),
    "br": coded(b"br", brotli.compress(TEXT)),
    "zstd": coded(b"zstd", zstd.compress(TEXT)),
}


@pytest.mark.parametrize("fetcher", FETCHERS)
@pytest.mark.parametrize("case", TEXTS)
def test_a_page_is_read_in_the_same_encodings(case: str, fetcher: str) -> None:
    async def run(server: RawServer) -> Response:
        proxies = through(server) if fetcher == "session" else None
        async with Client(user_agent="x", proxies=proxies) as client:
            return await client.get(f"{server.url}/robots.txt")

    with RawServer(lambda _: TEXTS[case]) as server:
        assert asyncio.run(run(server)).body == TEXT


def test_every_fetcher_is_one_of_its_own() -> None:
    with RawServer(lambda _: ok(PNG)) as server:
        assert through(server).of(parse_address("http://127.0.0.1/")) is not None
