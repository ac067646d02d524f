"""Every fault over a real socket, as a client meets it."""

from __future__ import annotations

import http.client
import io
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import pytest
from PIL import Image, UnidentifiedImageError

from pipeline.demo.replica.config import FaultPlan, ReplicaConfig
from pipeline.demo.replica.server import Replica


@contextmanager
def replica_with(**shares: float | str) -> Iterator[tuple[Replica, str]]:
    """A mock server whose images all have one fault, and the URL of one of them."""
    plan = FaultPlan(**{"passing_attempts": 1, **shares})  # type: ignore[arg-type]
    with Replica(ReplicaConfig(size=64, sections=("shape",), faults=plan)) as replica:
        yield replica, next(replica.urls("shape"))


@contextmanager
def asked(url: str, *, timeout_s: float = 5) -> Iterator[http.client.HTTPResponse]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        connection.request("GET", parts.path + (f"?{parts.query}" if parts.query else ""))
        yield connection.getresponse()
    finally:
        connection.close()


def assert_healed(replica: Replica, url: str) -> None:
    with asked(url) as response:
        assert (response.status, response.read()) == (200, replica.true_bytes(url))


@pytest.mark.parametrize(("kind", "status"), [("error", 500), ("unavailable", 503)])
def test_server_errors_pass(kind: str, status: int) -> None:
    with replica_with(**{kind: 1.0}) as (replica, url):
        with asked(url) as response:
            assert response.status == status
        assert_healed(replica, url)
        assert replica.statuses == {status: 1, 200: 1}


def test_slow_responses_are_late_and_complete() -> None:
    with replica_with(slow=1.0, slow_s=0.3) as (replica, url):
        began = time.monotonic()
        with asked(url) as response:
            assert response.read() == replica.true_bytes(url)
        assert time.monotonic() - began >= 0.3


def test_a_truncated_body_is_shorter_than_announced_and_the_connection_closes() -> None:
    with replica_with(truncated=1.0) as (replica, url):
        with asked(url) as response, pytest.raises(http.client.IncompleteRead) as caught:
            response.read()
        whole = replica.true_bytes(url)
        assert caught.value.partial == whole[: len(whole) // 2]
        assert int(response.headers["Content-Length"]) == len(whole)
        assert_healed(replica, url)


def test_a_png_cut_short_is_a_complete_response() -> None:
    with replica_with(cut_short=1.0) as (replica, url):
        with asked(url) as response:
            body = response.read()
        assert replica.true_bytes(url).startswith(body)
        assert not body.endswith(b"IEND\xaeB`\x82")
        assert_healed(replica, url)


def test_busy_has_retry_after_in_seconds() -> None:
    with replica_with(busy=1.0, retry_after_s=7) as (replica, url):
        with asked(url) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "7")
        assert_healed(replica, url)


def test_busy_until_has_retry_after_as_a_date() -> None:
    with replica_with(busy_until=1.0, retry_after_s=7) as (_, url), asked(url) as response:
        assert response.status == 429
        wait = parsedate_to_datetime(response.headers["Retry-After"]).timestamp() - time.time()
        assert 6 < wait <= 8


def test_a_corrupt_png_has_its_length_and_no_readable_pixels_every_time() -> None:
    with replica_with(corrupt=1.0) as (replica, url):
        for _ in range(3):
            with asked(url) as response:
                body = response.read()
            assert response.status == 200
            assert len(body) == len(replica.true_bytes(url))
            assert body[:24] == replica.true_bytes(url)[:24]
            with pytest.raises((OSError, SyntaxError, zlib.error, UnidentifiedImageError)):
                Image.open(io.BytesIO(body)).load()


def test_html_comes_with_status_200() -> None:
    with replica_with(html=1.0) as (_, url), asked(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/html")
        assert b"<html" in response.read()


def test_missing_stays_missing() -> None:
    with replica_with(missing=1.0) as (_, url):
        for _ in range(3):
            with asked(url) as response:
                assert response.status == 404


def test_a_reset_connection_yields_no_response() -> None:
    with replica_with(reset=1.0) as (replica, url):
        with pytest.raises(ConnectionResetError), asked(url):
            pass
        assert_healed(replica, url)
        assert replica.statuses == {0: 1, 200: 1}


def test_a_silent_server_does_not_answer() -> None:
    with replica_with(silent=1.0, hang_s=30) as (replica, url):
        with pytest.raises(socket.timeout), asked(url, timeout_s=0.3):
            pass
        assert_healed(replica, url)


def test_an_opted_out_image_has_the_header() -> None:
    with replica_with(opted_out=1.0) as (_, url), asked(url) as response:
        assert response.status == 200
        assert response.headers["X-Robots-Tag"] == "noai, noimageai"


def test_a_redirect_leads_to_the_image() -> None:
    with replica_with(redirected=1.0) as (replica, url):
        with asked(url) as response:
            assert response.status == 302
            target = replica.url + response.headers["Location"]
        with asked(target) as response:
            assert response.read() == replica.true_bytes(url)


def test_a_redirect_loop_leads_to_itself() -> None:
    with replica_with(redirect_loop=1.0, permanent=1.0) as (replica, url):
        for _ in range(3):
            with asked(url) as response:
                assert replica.url + response.headers["Location"] == url


def test_a_redirect_away_leads_to_the_configured_host() -> None:
    away = replica_with(redirect_away=1.0, away="http://127.0.0.2:9/x")
    with away as (_, url), asked(url) as response:
        assert (response.status, response.headers["Location"]) == (302, "http://127.0.0.2:9/x")


def test_a_gzip_bomb_is_small_on_the_wire_and_huge_unpacked() -> None:
    with replica_with(gzip_bomb=1.0) as (_, url), asked(url) as response:
        body = response.read()
    assert response.headers["Content-Encoding"] == "gzip"
    assert len(body) < 2 << 20
    assert len(zlib.decompressobj(31).decompress(body, 1 << 20)) == 1 << 20
    members = body.count(body[:10])
    assert members == 1024


def test_a_huge_body_continues_as_long_as_it_is_read() -> None:
    with replica_with(huge=1.0) as (replica, url):
        with asked(url) as response:
            assert int(response.headers["Content-Length"]) == 10_000_000_000
            assert len(response.read(30 << 20)) == 30 << 20
        assert_healed(replica, url)


def test_a_slow_loris_sends_a_byte_now_and_then() -> None:
    with replica_with(slow_loris=1.0, drip_s=0.1) as (replica, url):
        with asked(url) as response:
            began = time.monotonic()
            assert response.read(4) == b"\x89PNG"
            assert time.monotonic() - began > 0.25
        assert_healed(replica, url)


def test_faults_of_a_mixed_plan_are_the_predicted_ones() -> None:
    plan = FaultPlan(seed=4, error=0.3, html=0.2, missing=0.1, passing_attempts=2)
    with Replica(ReplicaConfig(size=64, sections=("shape",), faults=plan)) as replica:
        told = {"error": 500, "html": 200, "missing": 404}
        for url in replica.urls("shape"):
            fate = replica.fault(url)
            for attempt in range(1, 4):
                sick = fate and (fate.heals_after is None or attempt <= fate.heals_after)
                with asked(url) as response:
                    body = response.read()
                assert response.status == (told[fate.kind] if fate and sick else 200)
                assert (body == replica.true_bytes(url)) == (not sick)
