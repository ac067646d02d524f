"""The same captions from a web archive: newest good captures, and what the archive does not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png, states, stored
from tests.scrapers.wayback.archive_stand_in import ArchiveStandIn

# Nothing listens there, nor does the name exist: whatever is fetched came from the archive.
SITE = "https://blog.test/dall-e"
OLD, NEW, NEWEST = "20210106000000", "20210801120000", "20220301000000"


def url(caption: int, rank: int, section: str = "things") -> str:
    return f"{SITE}/samples/{section}/c{caption}_{rank}.png"


@pytest.fixture
def archive(server: Server) -> ArchiveStandIn:
    made = ArchiveStandIn()
    server.behaviour = made
    return made


@pytest.fixture
def via(server: Server, quick: DalleBlogConfig) -> DalleBlogConfig:
    """Options that lead to the stand-in, without its slowness."""
    return replace(
        quick,
        via="wayback",
        archive_url=server.url + "/",
        archive_rate=1000.0,
        archive_index_rate=1000.0,
    )


def hold_all(archive: ArchiveStandIn, captions: int = 3, ranks: int = 4) -> None:
    for caption in range(captions):
        for rank in range(ranks):
            archive.record(OLD, url(caption, rank), png(url(caption, rank)))


def final_urls(config: DalleBlogConfig) -> dict[str, str | None]:
    ledger = Ledger(config.workspace / "raw" / "ledger.sqlite")
    rows = ledger.query("SELECT url, final_url FROM items")
    found = {str(address): None if final is None else str(final) for address, final in rows}
    ledger.close()
    return found


def test_the_newest_good_capture_is_fetched(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    archive.record(OLD, url(0, 0), png("old"))
    archive.record(NEW, url(0, 0), png("new"))
    archive.record(NEWEST, url(0, 0), b"<html>gone", mimetype="text/html")
    archive.record("20230101000000", url(0, 0), b"", statuscode="404")
    report = scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert report.outcome == "done"
    assert stored(via.workspace) == {url(0, 0): png("new")}
    address = f"{server.url}/web/{NEW}id_/{url(0, 0)}"
    assert final_urls(via) == {url(0, 0): address}
    assert archive.replay_asks == [address.removeprefix(server.url)]
    assert report.details["archive"]["address"] == server.url


def test_a_capture_under_another_spelling_of_the_address_counts(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, "http://BLOG.test:80/dall-e/samples/things/c%30_0.png", png("x"))
    assert scrape(via, source=PlainSource(SITE, captions=1, ranks=1)).counts["done"] == 1


def test_an_image_under_a_type_that_says_nothing_is_taken(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 0), png("x"), mimetype="application/octet-stream")
    assert scrape(via, source=PlainSource(SITE, captions=1, ranks=1)).counts["done"] == 1


def test_what_is_not_archived_is_missing_and_not_asked_for(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 1), png("x"))
    report = scrape(via, source=PlainSource(SITE, captions=200, ranks=32))
    assert report.outcome == "done"
    assert report.counts["missing"] == 200 * 32 - 1
    assert states(via.workspace)[url(7, 7)] == ("missing", "not_archived")
    assert len(archive.replay_asks) == 1
    assert report.details["completeness"] == {"complete": 0, "partial": 1, "absent": 199}


def test_no_probe_decides_for_a_form_when_the_index_knows(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    for rank in (5, 9):
        archive.record(OLD, f"{SITE}/samples/things/anc0_{rank}.png", png("x"))
    source = PlainSource(SITE, captions=1, ranks=12, forms=("a", "an"))
    report = scrape(via, source=source)
    assert (report.counts["done"], report.counts["missing"]) == (2, 10)
    assert all("anc0" in found for found in states(via.workspace))


# --- Bad captures --------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [png("x")[:-9], b"<html>busy</html>", b"", b"\x00" * 99])
def test_a_broken_newest_capture_makes_way_for_an_older_one(
    bad: bytes, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 0), png("older"))
    archive.record(NEW, url(0, 0), bad)
    archive.record(NEWEST, url(0, 0), bad)
    report = scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert report.outcome == "done"
    assert stored(via.workspace) == {url(0, 0): png("older")}
    # The same bytes were not asked for again, neither there nor at another time.
    assert [path.split("/")[2] for path in archive.replay_asks] == [f"{NEWEST}id_", f"{OLD}id_"]


def test_bytes_that_are_not_those_of_the_index_are_asked_for_again(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    def cut_once(ask: Ask) -> bytes | None:
        return answer(png("x")[:99]) if "/web/" in ask.path and ask.turn < 3 else None

    archive.record(OLD, url(0, 0), png("x"))
    archive.trouble = cut_once
    report = scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert report.counts["done"] == 1
    assert len(archive.replay_asks) == 3


def test_a_capture_that_can_not_be_had_makes_way_for_an_older_one(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    def broken(ask: Ask) -> bytes | None:
        troubled = f"/web/{NEW}" in ask.path or ask.turn == 1
        return answer(b"", 500) if "/web/" in ask.path and troubled else None

    archive.record(OLD, url(0, 0), png("older"))
    archive.record(NEW, url(0, 0), png("newer"))
    archive.trouble = broken
    report = scrape(replace(via, attempts=2), source=PlainSource(SITE, captions=1, ranks=1))
    assert stored(via.workspace) == {url(0, 0): png("older")}
    assert len(archive.replay_asks) == 4  # Two attempts for each.
    assert report.outcome == "done"


def test_only_so_many_captures_are_tried(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    for year in range(2010, 2024):
        archive.record(f"{year}0101000000", url(0, 0), png(f"{year}")[:-9])
    source = PlainSource(SITE, captions=1, ranks=1)
    report = scrape(via, source=source)
    assert report.outcome == "incomplete"
    assert states(via.workspace) == {url(0, 0): ("truncated", "ends_early")}
    assert len(archive.replay_asks) == 4
    scrape(via, source=source)
    assert len(archive.replay_asks) == 4
    scrape(replace(via, retry_failed=True), source=source)
    assert len(archive.replay_asks) == 8


def test_trouble_with_a_newer_capture_is_not_forgotten_for_a_lost_older_one(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(NEW, url(0, 0), png("x")[:-9])
    archive.record(OLD, url(0, 0), png("y"))
    archive.trouble = lambda ask: answer(b"", 404) if OLD in ask.path else None
    scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert states(via.workspace) == {url(0, 0): ("truncated", "ends_early")}


def test_what_the_index_names_and_the_archive_lost_is_not_archived(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 0), png("x"))
    archive.lost.add(OLD)
    source = PlainSource(SITE, captions=1, ranks=1)
    assert scrape(via, source=source).outcome == "done"
    assert states(via.workspace) == {url(0, 0): ("missing", "not_archived")}
    scrape(replace(via, limit=9), source=source)
    assert len(archive.replay_asks) == 1


# --- Redirects and addresses that look alike -----------------------------------------------------


def test_a_redirect_to_the_nearest_capture_is_followed(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 0), png("x"))
    archive.record(NEW, url(0, 0), png("y"))
    archive.lost.add(NEW)
    scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert stored(via.workspace) == {url(0, 0): png("x")}
    assert f"/web/{OLD}id_/" in str(final_urls(via)[url(0, 0)])
    assert len(archive.replay_asks) == 2


@pytest.mark.parametrize("target", [f"/web/{NEW}id_/{url(1, 1)}", "/somewhere.png"])
def test_a_redirect_to_another_image_is_refused(
    target: str, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    def leads_away(ask: Ask) -> bytes | None:
        if ask.path == target:
            return answer(png("another"))
        return answer(b"", 302, Location=target) if f"/web/{NEW}" in ask.path else None

    archive.record(OLD, url(0, 0), png("right"))
    archive.record(NEW, url(0, 0), png("newer"))
    archive.trouble = leads_away
    scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert stored(via.workspace) == {url(0, 0): png("right")}


def test_images_whose_addresses_differ_by_case_only_are_not_mixed_up(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    """The archive finds both under one key and gives the first for either."""
    lower = f"{SITE}/samples/things/c0_0.png"
    upper = f"{SITE}/samples/things/C0_0.png"
    archive.record(NEW, upper, png("upper"))
    archive.record(NEW, lower, png("lower"))
    archive.record(OLD, lower, png("lower"))
    scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert stored(via.workspace) == {lower: png("lower")}
    assert f"/web/{OLD}id_/" in str(final_urls(via)[lower])


def test_only_the_wrong_one_of_two_look_alikes_is_a_failure(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(NEW, f"{SITE}/samples/things/C0_0.png", png("upper"))
    archive.record(NEW, url(0, 0), png("lower"))
    scrape(via, source=PlainSource(SITE, captions=1, ranks=1))
    assert states(via.workspace) == {url(0, 0): ("failed", "other_image")}
