"""Answers as servers frame them, connections that are kept or not, and what is no answer at all."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import Awaitable, Callable

import pytest

from scrapers.fetch.client import Client
from scrapers.fetch.decoding import decode_body
from scrapers.fetch.response import FetchError, Response
from tests.helpers.crawls import Ask, Server, answer, png

BODY = png("body", 5000)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: x\r\n\r\n"


def ask(server: Server, *paths: str, timeout_s: float = 5.0, **options: object) -> list[Response]:
    """Ask for one path after the other with one client."""

    async def run() -> list[Response]:
        async with Client(user_agent="dalle-pipeline/test", timeout_s=timeout_s) as client:
            return [await client.get(server.url + path, **options) for path in paths]  # type: ignore[arg-type]

    return asyncio.run(run())


def answers_with(*pieces: bytes, close: bool = False) -> Callable[[Ask], Awaitable[bytes | None]]:
    """A server that sends these pieces, a moment between them."""

    async def behave(found: Ask) -> bytes | None:
        for piece in pieces:
            await found.send(piece)
            await asyncio.sleep(0.01)
        return None if close else b""

    return behave


FRAMES: dict[str, tuple[tuple[bytes, ...], bool]] = {
    "by_length": ((answer(BODY),), False),
    "in_many_reads": (tuple(answer(BODY)[n : n + 700] for n in range(0, 6000, 700)), False),
    "byte_by_byte_head": (
        (*(bytes([b]) for b in answer(BODY)[:60]), answer(BODY)[60:]),
        False,
    ),
    "chunked": (
        (CHUNKED + b"%x\r\n" % 3000 + BODY[:3000], b"\r\n%x\r\n" % (len(BODY) - 3000)),
        False,
    ),
    "until_the_end": ((b"HTTP/1.1 200 OK\r\n\r\n", BODY[:2000], BODY[2000:]), True),
    "old_http": ((b"HTTP/1.0 200 OK\r\nServer: old\r\n\r\n" + BODY,), True),
    "after_early_hints": ((b"HTTP/1.1 103 Early\r\nLink: </x>\r\n\r\n" + answer(BODY),), False),
    "lines_end_in_lf": ((answer(b"", length=len(BODY)).replace(b"\r", b"") + BODY,), False),
}


@pytest.mark.parametrize("frame", FRAMES)
def test_a_body_comes_whole_however_it_is_framed(frame: str, server: Server) -> None:
    pieces, close = FRAMES[frame]
    if frame == "chunked":
        pieces = (*pieces, BODY[3000:] + b"\r\n0\r\nTrailer: x\r\n\r\n")
    server.behaviour = answers_with(*pieces, close=close)
    found = ask(server, "/a.png", "/b.png")
    assert [(one.status, one.body) for one in found] == [(200, BODY)] * 2


BROKEN: dict[str, tuple[tuple[bytes, ...], str]] = {
    "no_answer": ((), "disconnected"),
    "half_a_head": ((b"HTTP/1.1 200 OK\r\nContent-Le",), "disconnected"),
    "half_a_body": ((answer(BODY[:900], length=len(BODY)),), "truncated"),
    "half_a_chunk": ((CHUNKED + b"%x\r\n" % 3000 + BODY[:100],), "truncated"),
    "no_last_chunk": ((CHUNKED + b"5\r\nabcde\r\n",), "truncated"),
    "a_bad_chunk": ((CHUNKED + b"zz\r\nabcde\r\n",), "truncated"),
    "no_http": ((b"SSH-2.0-OpenSSH\r\n\r\n",), "bad_http"),
    "two_lengths": (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 9\r\n\r\n",),
        "bad_http",
    ),
    "no_length": ((b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",), "bad_http"),
    "an_endless_head": ((b"HTTP/1.1 200 OK\r\nX: " + bytes(70_000),), "bad_http"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_is_no_whole_answer_says_what_it_is(fault: str, server: Server) -> None:
    pieces, reason = BROKEN[fault]
    server.behaviour = answers_with(*pieces, close=True)
    with pytest.raises(FetchError) as error:
        ask(server, "/a.png")
    assert (error.value.reason, error.value.retry) == (reason, True)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_beyond_the_limit_is_not_taken(chunked: bool, server: Server) -> None:
    data = (
        answer(BODY) if not chunked else CHUNKED + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"
    )
    server.behaviour = answers_with(data)
    with pytest.raises(FetchError) as error:
        ask(server, "/a.png", max_bytes=4999)
    assert error.value.reason == "too_large"
    assert ask(server, "/a.png", max_bytes=len(BODY))[0].body == BODY


def test_a_large_body_comes_whole(server: Server) -> None:
    body = png("large", 5_000_000)
    server.behaviour = answers_with(answer(body))
    assert ask(server, "/a.png")[0].body == body


def test_a_claimed_length_takes_no_memory_before_its_bytes_come(server: Server) -> None:
    server.behaviour = answers_with(answer(BODY, length=24 * 2**20), close=True)

    async def run() -> None:
        async with Client(user_agent="dalle-pipeline/test") as client:
            asked = (client.get(f"{server.url}/{n}.png") for n in range(8))
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(error, FetchError)
                assert error.reason == "truncated"

    tracemalloc.start()
    try:
        asyncio.run(run())
        assert tracemalloc.get_traced_memory()[1] < 24 * 2**20
    finally:
        tracemalloc.stop()


def test_a_body_of_countless_gzip_members_is_refused_at_once() -> None:
    member = gzip.compress(b"")
    assert decode_body(member * 9 + gzip.compress(BODY), ["gzip"], 10_000) == BODY
    with pytest.raises(FetchError) as error:
        decode_body(member * 1_000_000, ["gzip"], 10_000)
    assert error.value.reason == "bad_body"


def connections(server: Server, *paths: str) -> int:
    """How many connections it takes to ask for these paths, one after the other."""
    writers = set()

    async def behave(found: Ask) -> bytes:
        writers.add(id(found.writer))
        kept.append(found.writer)
        if found.path == "/close":
            return answer(BODY, Connection="close")
        if found.path == "/error":
            return answer(b"no", 404)
        if found.path == "/long_error":
            return answer(bytes(100_000), 500)
        if found.path == "/more":
            return answer(BODY) + b"HTTP/1.1 200 OK\r\n"
        return answer(BODY)

    kept: list[object] = []
    server.behaviour = behave
    ask(server, *paths)
    return len(writers)


def test_a_connection_serves_again_unless_it_can_not(server: Server) -> None:
    assert connections(server, "/a", "/b", "/error", "/c") == 1
    assert connections(server, "/close", "/b") == 2
    assert connections(server, "/long_error", "/b") == 2
    assert connections(server, "/more", "/b") == 2


def test_a_late_answer_is_not_taken_for_the_next_one(server: Server) -> None:
    async def behave(found: Ask) -> bytes:
        if found.path == "/slow":
            await asyncio.sleep(0.6)
        return answer(png(found.path))

    async def run() -> Response:
        async with Client(user_agent="x", timeout_s=0.3) as client:
            with pytest.raises(FetchError) as error:
                await client.get(server.url + "/slow")
            assert (error.value.reason, error.value.sign) == ("timeout", "overload")
            await asyncio.sleep(0.5)
            return await client.get(server.url + "/quick")

    server.behaviour = behave
    assert asyncio.run(run()).body == png("/quick")


def test_a_request_that_is_given_up_ends_its_connection(server: Server) -> None:
    async def behave(found: Ask) -> bytes:
        await asyncio.sleep(0.2 if found.path == "/slow" else 0)
        return answer(png(found.path))

    async def run() -> Response:
        async with Client(user_agent="x") as client:
            task = asyncio.create_task(client.get(server.url + "/slow"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.sleep(0.2)
            return await client.get(server.url + "/quick")

    server.behaviour = behave
    assert asyncio.run(run()).body == png("/quick")


def test_a_path_is_asked_for_as_the_source_wrote_it(server: Server) -> None:
    written = "/a%2Fb/%7Ec+d=/x%20y.png?q=%C3%BC&r"
    ask(server, written, "/ü x.png", "/a.png#part", "")
    asked = [path for path, _ in server.asked]
    assert asked == [written, "/%C3%BC%20x.png", "/a.png", "/"]
    hosts = {headers["host"] for _, headers in server.asked}
    assert hosts == {f"127.0.0.1:{server.port}"}


@pytest.mark.parametrize("url", ["ftp://h/x", "no address", "http:///x", "http://h:99999/x"])
def test_what_is_no_web_address_is_said_so(url: str) -> None:
    async def run() -> None:
        async with Client(user_agent="x") as client:
            await client.get(url)

    with pytest.raises(FetchError) as error:
        asyncio.run(run())
    assert (error.value.reason, error.value.retry) == ("bad_url", False)


def test_a_header_can_not_smuggle_a_second_one(server: Server) -> None:
    with pytest.raises(FetchError) as error:
        ask(server, "/a.png", headers={"If-None-Match": "x\r\nHost: other"})
    assert error.value.reason == "bad_header"
    assert not server.asked


def test_nobody_listening_is_a_connection_that_failed() -> None:
    gone = Server()
    gone.close()
    with pytest.raises(FetchError) as error:
        ask(gone, "/a.png")
    assert (error.value.reason, error.value.sign) == ("refused", "down")
