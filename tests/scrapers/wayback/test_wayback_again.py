"""Via an archive, again: reruns, kills, refreshes, and a ledger that the live site filled too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.urls import base64_key
from tests.helpers.crawls import Ask, PlainSource, Server, answer, members, png, states, stored
from tests.scrapers.wayback.archive_stand_in import ArchiveStandIn

ROOT = Path(__file__).parents[3]
SITE = "https://blog.test/dall-e"
OLD, NEW = "20210106000000", "20210801120000"
CHILD = """
import sys
from pathlib import Path
from scrapers.rawstore import batch_writer as store
from tests.scrapers.wayback.test_wayback_again import crawl
store.BATCH_ROWS = 20
crawl(sys.argv[1], Path(sys.argv[2]))
"""


def crawl(archive_url: str, root: Path) -> str:
    """Scrape 320 images via an archive; the outcome."""
    config = DalleBlogConfig(
        workspace=root,
        via="wayback",
        archive_url=archive_url,
        archive_rate=2000.0,
        archive_index_rate=2000.0,
        archive_concurrency=8,
        backoff_s=0.01,
    )
    return scrape(config, source=PlainSource(SITE, captions=20, ranks=16)).outcome


@pytest.fixture
def archive(server: Server) -> ArchiveStandIn:
    made = ArchiveStandIn()
    server.behaviour = made
    return made


@pytest.fixture
def via(server: Server, quick: DalleBlogConfig) -> DalleBlogConfig:
    """Options that lead to the stand-in, without its slowness."""
    return replace(
        quick, via="wayback", archive_url=server.url, archive_rate=1000.0, archive_index_rate=1000.0
    )


def url(caption: int, rank: int, site: str = SITE) -> str:
    return f"{site}/samples/things/c{caption}_{rank}.png"


def hold(archive: ArchiveStandIn, captions: int, ranks: int, site: str = SITE) -> None:
    for caption in range(captions):
        for rank in range(ranks):
            address = url(caption, rank, site)
            archive.record(OLD, address, png(address))


def asks(archive: ArchiveStandIn) -> tuple[int, int]:
    """Questions to the index and to the replay since the last call."""
    found = len(archive.index_asks), len(archive.replay_asks)
    archive.index_asks.clear()
    archive.replay_asks.clear()
    return found


# --- Reruns and kills ----------------------------------------------------------------------------


def test_nothing_is_asked_twice(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    hold(archive, 3, 3)
    source = PlainSource(SITE)
    first = scrape(via, source=source)
    assert (first.counts["done"], first.counts["missing"]) == (9, 3)
    assert asks(archive) == (1, 9)
    assert scrape(via, source=source).outcome == "unchanged"
    # Another limit: not the manifest but ledger and index say that there is nothing to do.
    again = scrape(replace(via, limit=9), source=source)
    assert again.outcome == "unchanged"
    assert again.counts == first.counts
    assert asks(archive) == (0, 0)
    more = scrape(replace(via, limit=8), source=PlainSource(SITE, captions=4))
    assert more.counts["missing"] == 7
    assert asks(archive) == (0, 0)


def test_killed_at_any_moment_it_continues(
    archive: ArchiveStandIn, server: Server, tmp_path: Path
) -> None:
    archive.rows_per_page = 40
    hold(archive, 20, 16)
    root = tmp_path / "data"
    command = [sys.executable, "-c", CHILD, server.url, str(root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for enough in (4, 120):  # Within the index, and among the images.
        child = subprocess.Popen(command, cwd=ROOT, env=environment)
        while len(archive.index_asks) + len(archive.replay_asks) < enough and child.poll() is None:
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert crawl(server.url, root) == "done"
    assert stored(root) == {url(c, r): png(url(c, r)) for c in range(20) for r in range(16)}
    assert len(members(root)) == 2 * 320
    # Eight pages; a killed run repeats at most the page, and the batches, that were under way.
    assert len(archive.index_asks) <= 8 + 2
    assert len(archive.replay_asks) - 320 <= 2 * 70


def test_a_broken_copy_of_the_index_is_asked_for_again(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold(archive, 2, 4)
    scrape(via, source=PlainSource(SITE, captions=1))
    (via.workspace / "raw" / "archive.sqlite").write_bytes(b"not a database" * 500)
    assert scrape(via, source=PlainSource(SITE, captions=2)).outcome == "unchanged"
    assert scrape(replace(via, limit=9), source=PlainSource(SITE, captions=2)).counts["done"] == 8
    assert asks(archive) == (2, 8)


def test_another_archive_is_asked_for_what_it_holds(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    archive.record(OLD, url(0, 0), png("first"))
    source = PlainSource(SITE, captions=1, ranks=2)
    scrape(via, source=source)
    other = ArchiveStandIn()
    hold(other, 1, 2)
    server.behaviour = other
    again = replace(via, archive_url=via.archive_url.replace("127.0.0.1", "localhost"))
    assert scrape(again, source=source).outcome == "unchanged"  # Settled by the first archive.
    assert asks(other) == (1, 0)
    assert scrape(replace(again, refresh=True), source=source).counts["done"] == 2


# --- Refresh -------------------------------------------------------------------------------------


def test_a_refresh_fetches_newer_captures_and_nothing_else(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold(archive, 2, 3)
    source = PlainSource(SITE, captions=2)
    scrape(via, source=source)
    asks(archive)
    assert scrape(replace(via, refresh=True), source=source).outcome == "unchanged"
    assert asks(archive) == (1, 0)

    archive.record(NEW, url(0, 1), png("changed"))
    archive.record(NEW, url(0, 2), png(url(0, 2)))
    archive.record(NEW, url(1, 3), png("at last"))
    archive.captures = [c for c in archive.captures if c.original != url(1, 0)]
    report = scrape(replace(via, refresh=True, gone_after=1), source=source)
    assert asks(archive) == (1, 2)  # The newer capture of what did not change is no news.
    assert report.details["changed"] == 1
    assert report.details["gone"] == 1
    found = stored(via.workspace)
    assert (found[url(0, 1)], found[url(1, 3)]) == (png("changed"), png("at last"))
    assert states(via.workspace)[url(1, 0)] == ("missing", "gone")
    assert scrape(replace(via, refresh=True), source=source).outcome == "unchanged"
    assert asks(archive) == (1, 0)


def test_a_refresh_comes_back_to_the_capture_that_was_good(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    archive.record(OLD, url(0, 0), png("good"))
    archive.captures[0] = replace(archive.captures[0], headers=(("ETag", '"1"'),))
    archive.record(NEW, url(0, 0), png("bad")[:-9])
    archive.record("20200101000000", url(0, 0), png("older still"))
    source = PlainSource(SITE, captions=1, ranks=1)
    scrape(via, source=source)
    asks(archive)
    report = scrape(replace(via, refresh=True), source=source)
    assert asks(archive) == (1, 2)
    assert report.outcome == "unchanged"
    assert stored(via.workspace) == {url(0, 0): png("good")}
    # The ETag is that of one capture and says nothing of another.
    assert not any("if-none-match" in headers for _, headers in server.asked)


def test_a_caption_stays_in_the_form_in_which_it_is_stored(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    source = PlainSource(SITE, captions=1, forms=("a", "an"))
    archive.record(OLD, f"{SITE}/samples/things/ac0_0.png", png("a"))
    scrape(via, source=source)
    for rank in range(4):
        archive.record(NEW, f"{SITE}/samples/things/anc0_{rank}.png", png("an"))
    archive.record(NEW, f"{SITE}/samples/things/ac0_1.png", png("more"))
    assert scrape(replace(via, refresh=True), source=source).counts["done"] == 2
    assert all("/ac0" in address for address in states(via.workspace))


# --- The live site and the archive ---------------------------------------------------------------


def test_an_archive_fills_what_the_site_does_not_have_any_more(
    quick: DalleBlogConfig, server: Server
) -> None:
    archive = ArchiveStandIn()
    gone = {f"/samples/things/c0_{rank}.png" for rank in range(4)} | {"/samples/things/c1_2.png"}
    live: list[str] = []

    async def both(ask: Ask) -> bytes | None:
        if ask.path.startswith(("/web/", "/cdx/")):
            return await archive(ask)
        live.append(ask.path)
        return answer(b"", 404) if ask.path in gone else answer(png(ask.path))

    server.behaviour = both
    source = PlainSource(server.url, captions=3)
    via = replace(
        quick, via="wayback", archive_url=server.url, archive_rate=1000.0, archive_index_rate=1000.0
    )
    archive.record(OLD, url(0, 0, server.url), png("kept by the archive"))
    archive.record(OLD, url(0, 3, server.url), png("kept, too"))
    archive.record(OLD, url(2, 0, server.url), png("not wanted"))

    assert scrape(quick, source=source).counts["done"] == 7
    live.clear()
    report = scrape(via, source=source)
    assert not live
    assert report.counts["done"] == 9
    assert asks(archive) == (1, 2)
    assert stored(via.workspace)[url(0, 0, server.url)] == png("kept by the archive")
    assert states(via.workspace)[url(1, 2, server.url)] == ("missing", "http_404")
    assert scrape(replace(via, limit=9), source=source).outcome == "unchanged"
    assert asks(archive) == (0, 0)

    # Refreshed where it came from: the site is not asked for the archive's, nor the reverse.
    scrape(replace(quick, refresh=True), source=source)
    assert asks(archive) == (0, 0)
    assert "/samples/things/c0_0.png" not in live
    assert "/samples/things/c2_0.png" in live
    scrape(replace(via, refresh=True), source=source)
    assert asks(archive) == (1, 0)
    assert len(stored(via.workspace)) == 9


def test_the_site_is_asked_for_what_the_archive_did_not_hold(
    quick: DalleBlogConfig, server: Server
) -> None:
    archive = ArchiveStandIn()
    server.behaviour = archive
    source = PlainSource(server.url, captions=1)
    via = replace(
        quick, via="wayback", archive_url=server.url, archive_rate=1000.0, archive_index_rate=1000.0
    )
    archive.record(OLD, url(0, 1, server.url), png("archived"))
    assert scrape(via, source=source).counts["missing"] == 3
    server.behaviour = None
    server.hits.clear()
    assert scrape(quick, source=source).counts["done"] == 4
    assert sum(server.image_hits.values()) == 3
    assert stored(via.workspace)[url(0, 1, server.url)] == png("archived")


# --- The blog itself -----------------------------------------------------------------------------


def test_the_blogs_captions_come_from_the_archive(
    archive: ArchiveStandIn, via: DalleBlogConfig, tmp_path: Path
) -> None:
    captions = (
        "a cube made of porcupine",
        "a cube made of >>?",
    )  # The latter has a slash in its key.
    wanted = tmp_path / "captions.txt"
    wanted.write_text("".join(f"material\t{caption}\n" for caption in captions))
    config = replace(
        via, captions=wanted, no_page=True, cdn_url="https://cdn.test/dall-e", limit=None
    )
    archive.record(OLD, "https://cdn.test/dall-e/samples/material/another.png", png("x"))
    scrape(config)
    addresses = sorted(states(via.workspace))
    assert addresses
    assert set(states(via.workspace).values()) == {("missing", "not_archived")}
    kept = [address for address in addresses if address.endswith(("_0.png", "_31.png"))]
    assert any(f"/material/{base64_key(captions[1])}_0.png" in address for address in kept)
    for address in kept:
        archive.record(OLD, address, png(address))
    report = scrape(replace(config, refresh=True))
    assert stored(via.workspace) == {address: png(address) for address in kept}
    assert report.counts["missing"] == len(addresses) - len(kept)
