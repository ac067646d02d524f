"""The same captions from pywb itself: its index, and captures of each kind that WARCs hold."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import PlainSource, Server, png, states, stored
from tests.scrapers.wayback.pywb_archive import Pywb, Recording, chunked, gzipped, needs_pywb
from tests.scrapers.wayback.test_wayback import final_urls
from tests.scrapers.wayback.test_wayback_index import SourceWithPage

pytestmark = needs_pywb

SITE = "http://blog.test:8080/dall-e"
OLD, NEW = "20210106000000", "20210801120000"
GZIP, CHUNKED = ("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")
ARCHIVE_OPTIONS = ("via", "archive_url", "archive_rate", "archive_index_rate", "backoff_s")


def url(caption: int, rank: int = 0, section: str = "things") -> str:
    return f"{SITE}/samples/{section}/c{caption}_{rank}.png"


Serve = Callable[[Recording], DalleBlogConfig]


@pytest.fixture(scope="module")
def pywb() -> Iterator[Pywb]:
    started = Pywb()
    yield started
    started.close()


@pytest.fixture
def serve(tmp_path: Path, quick: DalleBlogConfig, pywb: Pywb) -> Iterator[Serve]:
    """Give options that lead to an archive of these records."""
    with contextlib.ExitStack() as stack:

        def start(recording: Recording) -> DalleBlogConfig:
            url = stack.enter_context(pywb.archive(tmp_path / "pywb", recording))
            return replace(
                quick,
                via="wayback",
                archive_url=url,
                archive_rate=1000.0,
                archive_index_rate=1000.0,
                timeout_s=20.0,
            )

        yield start


def one(captions: int = 1, ranks: int = 1) -> PlainSource:
    return PlainSource(SITE, captions=captions, ranks=ranks)


def test_a_collection_is_found_by_its_address_and_read(serve: Serve) -> None:
    recording = Recording()
    for caption in range(3):
        recording.add(url(caption), OLD, png(f"old {caption}"))
    recording.add(url(0), NEW, png("new"))
    recording.add(url(1), NEW, b"<html>gone", kind="text/html")
    recording.add(url(2), NEW, b"", status="404 Not Found")
    via = serve(recording)
    report = scrape(via, source=one(3, 2))
    assert report.outcome == "done"
    assert stored(via.workspace) == {url(0): png("new"), url(1): png("old 1"), url(2): png("old 2")}
    assert final_urls(via)[url(0)] == f"{via.archive_url}/{NEW}id_/{url(0)}"
    assert report.counts["missing"] == 3
    assert report.details["archive"]["dialect"] == "pywb"
    assert scrape(replace(via, limit=9), source=one(3, 2)).outcome == "unchanged"


@pytest.mark.parametrize(
    ("headers", "encode"),
    [
        ([("Content-Encoding", "gzip")], gzipped),
        ([("Transfer-Encoding", "chunked")], chunked),
        ([("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")], lambda b: chunked(gzipped(b))),
    ],
    ids=["gzip", "chunked", "both"],
)  # fmt: skip
def test_a_body_that_was_recorded_encoded_comes_as_it_was_meant(
    headers: list[tuple[str, str]], encode: Callable[[bytes], bytes], serve: Serve
) -> None:
    recording = Recording()
    recording.add(url(0), NEW, encode(png("x")), headers=headers)
    # Of another URL with the same key, so that only a digest could tell them apart.
    recording.add(url(0).replace("c0", "C0"), OLD, png("another"))
    via = serve(recording)
    scrape(via, source=one())
    assert stored(via.workspace) == {url(0): png("x")}


def test_a_revisit_stands_for_the_bytes_that_it_repeats(serve: Serve) -> None:
    recording = Recording()
    recording.add(url(0), OLD, png("same"))
    recording.add(url(1), NEW, revisits=(url(0), OLD))  # the original under another URL
    recording.add(url(2), OLD, png("again"))
    recording.add(url(2), NEW, revisits=(url(2), OLD))
    via = serve(recording)
    assert scrape(via, source=one(3)).counts["done"] == 3
    assert stored(via.workspace) == {
        url(0): png("same"),
        url(1): png("same"),
        url(2): png("again"),
    }
    assert final_urls(via)[url(2)] == f"{via.archive_url}/{NEW}id_/{url(2)}"


def test_a_record_that_was_cut_holds_no_slot_and_makes_way_for_an_older_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pywb announces the length that was recorded, sends what it has, and holds the connection open."""
    monkeypatch.setattr("scrapers.wayback.replay.QUIET_S", 0.5)
    recording = Recording()
    length = ("Content-Length", str(len(png("x"))))
    for caption in range(2):
        recording.add(url(caption), NEW, png("x")[:300], headers=[length])
    recording.add(url(0), OLD, png("older"))
    recording.add(f"{SITE}/", NEW, b"cut", kind="text/html", headers=[length])
    recording.add(f"{SITE}/", OLD, b"captions", kind="text/html")
    via = serve(recording)
    started = time.monotonic()
    report = scrape(via, source=SourceWithPage(SITE, captions=2, ranks=1, start_url=f"{SITE}/"))
    assert time.monotonic() - started < via.timeout_s / 2
    assert report.outcome == "incomplete"
    assert stored(via.workspace) == {url(0): png("older")}
    assert states(via.workspace)[url(1)] == ("truncated", "truncated")


def test_a_recorded_redirect_is_not_followed_to_the_live_site(serve: Serve, server: Server) -> None:
    recording = Recording()
    for caption, target in enumerate((f"{server.url}/live.png", "/elsewhere.png", url(2))):
        recording.add(url(caption), NEW, status="302 Found", headers=[("Location", target)])
        # pywb has the redirect nearest to the time of an image that another WARC holds.
        recording.add(url(caption), OLD, png(f"older {caption}"))
    via = serve(recording)
    server.robots = b"User-agent: *\nDisallow: /\n"
    report = scrape(via, source=one(3))
    assert not server.hits
    assert report.counts["done"] == 3
    assert report.counts["opted_out"] == 0


def test_the_ledger_names_the_capture_that_was_served(serve: Serve) -> None:
    """Where the file of a capture is gone, pywb gives the one nearest to it, without a redirect."""
    recording = Recording(lost=["b.warc.gz"])
    recording.add(url(0), OLD, png("older"))
    recording.add(url(0), NEW, png("newer"), warc="b.warc.gz")
    recording.add(url(1), NEW, png("lost"), warc="b.warc.gz")
    via = serve(recording)
    report = scrape(via, source=one(2))
    assert stored(via.workspace) == {url(0): png("older")}
    assert final_urls(via)[url(0)] == f"{via.archive_url}/{OLD}id_/{url(0)}"
    assert states(via.workspace)[url(1)] == ("missing", "archive_lost")
    assert report.outcome == "done"


def test_escapes_and_ports_are_those_of_the_capture(serve: Serve) -> None:
    recording = Recording()
    escaped = f"{SITE}/samples/things/%63%30_0.png"
    recording.add(escaped, OLD, png("escaped"))
    recording.add("http://blog.test/dall-e/samples/things/c0_0.png", NEW, png("another port"))
    via = serve(recording)
    scrape(via, source=one())
    assert stored(via.workspace) == {url(0): png("escaped")}
    assert final_urls(via)[url(0)] == f"{via.archive_url}/{OLD}id_/{escaped}"
    assert scrape(replace(via, refresh=True), source=one()).outcome == "unchanged"


def test_what_the_site_said_is_kept_apart_from_what_the_archive_says(serve: Serve) -> None:
    recording = Recording()
    recording.add(url(0), OLD, png("x"), headers=[("X-Robots-Tag", "noai")])
    recording.add(url(1), OLD, png("y"))
    via = serve(recording)
    scrape(via, source=one(2))
    assert states(via.workspace) == {
        url(0): ("opted_out", "x_robots_noai"),
        url(1): ("done", None),
    }


def test_a_long_index_is_read_by_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scrapers.wayback.query.ROWS_PER_PAGE", {"pywb": 5})
    monkeypatch.setattr("scrapers.wayback.listing.ROWS_PER_PAGE", {"pywb": 5})
    recording = Recording()
    for caption in range(4):
        for day in range(1, 5):
            recording.add(url(caption), f"202101{day:02}000000", png(f"{caption} {day}"))
    for caption in range(4, 7):
        recording.add(url(caption), "20210104000000", png("7 in a second"))
    via = serve(recording)
    report = scrape(via, source=one(7))
    assert report.details["archive"]["captures"] == 19 - 2  # of seven rows of one second
    assert len(report.details["archive"]["doubts"]) == 1


def test_an_index_with_a_limit_of_its_own_is_read_whole(serve: Serve) -> None:
    recording = Recording(config={"query_limit": 5})
    for caption in range(12):
        recording.add(url(caption), f"202101{caption + 1:02}000000", png(str(caption)))
    via = serve(recording)
    report = scrape(via, source=one(12))
    assert report.counts["done"] == 12
    assert report.details["archive"]["doubts"] == {}


@pytest.mark.parametrize("collection", ["/coll", "/call", ""])
def test_an_empty_collection_or_none_is_said(
    collection: str, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """pywb gives an empty index for what it has no collection of."""
    recording = Recording()
    recording.add("http://other.test/", OLD, b"<html>", kind="text/html")
    via = serve(recording)
    via = replace(via, archive_url=via.archive_url.removesuffix("/coll") + collection)
    assert scrape(via, source=one()).outcome == "incomplete"
    assert "has none of the requested images" in caplog.text


def test_the_blog_comes_from_a_recording_of_the_replica(serve: Serve, tmp_path: Path) -> None:
    recording = Recording()
    with Replica(ReplicaConfig(size=16)) as replica:
        live = DalleBlogConfig(
            workspace=tmp_path / "live", page_url=replica.page_url, cdn_url=replica.cdn, limit=3
        )
        scrape(live)
        page = (live.workspace / "raw" / "page.html").read_bytes()
    images = stored(live.workspace)
    recording.add(replica.page_url, OLD, gzipped(page), kind="text/html", headers=[GZIP])
    recording.add(replica.page_url, NEW, b"<html><h1>We have moved</h1></html>", kind="text/html")
    for number, (address, body) in enumerate(images.items()):
        encode, headers = ((bytes, []), (chunked, [CHUNKED]), (gzipped, [GZIP]))[number % 3]
        recording.add(address, OLD, encode(body), headers=headers, warc=f"{number % 2}.warc.gz")
    via = serve(recording)
    via = replace(live, **{name: getattr(via, name) for name in ARCHIVE_OPTIONS})
    report = scrape(replace(via, workspace=tmp_path / "archived"))
    assert report.outcome == "done"
    assert stored(tmp_path / "archived") == images
    assert len(images) == 96
