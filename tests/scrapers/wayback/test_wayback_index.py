"""An archive's index, its copy of the page, and the pace at which it is asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import pytest

from pipeline.core.errors import ConfigError, SourceError
from scrapers.scrape import scrape
from scrapers.source import Discovery, StartPage
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.wayback.archive import index_rate, request_limits
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png, states
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


# --- The index -----------------------------------------------------------------------------------


def test_a_long_index_is_read_page_by_page(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    archive.rows_per_page = 5
    hold_all(archive, captions=6, ranks=4)
    archive.record(OLD, url(6, 0, "other"), png("x"))
    report = scrape(via, source=PlainSource(SITE, captions=6))
    assert report.counts["done"] == 24
    assert len(archive.index_asks) == 5
    assert {ask["url"] for ask in archive.index_asks} == {f"{SITE}/samples/things/"}
    assert report.details["archive"]["captures"] == 24


def test_an_index_that_breaks_off_goes_on_where_it_was(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.rows_per_page = 5
    hold_all(archive, captions=6, ranks=4)
    archive.trouble = lambda ask: answer(b"", 503) if len(archive.index_asks) > 3 else None
    source = PlainSource(SITE, captions=6)
    with pytest.raises(SourceError, match="status 503"):
        scrape(replace(via, attempts=2), source=source)
    assert not archive.replay_asks
    archive.index_asks.clear()
    archive.trouble = lambda ask: None
    assert scrape(via, source=source).counts["done"] == 24
    assert len(archive.index_asks) == 2


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"<!doctype html><h1>Temporarily Offline</h1>", "not JSON and begin '<!doctype html>"),
        (b'[["urlkey","timestamp","original"],["a)/', "not JSON"),
        (b"", "0 bytes that are not JSON"),
        (b'{"error": "busy"}', "no table"),
        (b'[["error"],["busy"]]', "columns error"),
        (b'[["timestamp","original"],["soon","http://a/"]]', "no capture"),
    ],
)
def test_an_index_that_makes_no_sense_is_said_in_a_sentence(
    body: bytes, says: str, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.trouble = lambda ask: answer(body) if archive.index_asks else None
    with pytest.raises(SourceError, match=says) as caught:
        scrape(replace(via, attempts=2), source=PlainSource(SITE))
    assert "--archive-url" in str(caught.value)
    assert len(archive.index_asks) == 2
    assert states(via.workspace) == {}


def test_a_refused_index_is_not_asked_again(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    archive.trouble = lambda ask: answer(b"", 403)
    with pytest.raises(SourceError, match="status 403"):
        scrape(via, source=PlainSource(SITE))
    assert len(archive.checks) == 1


def test_an_index_that_goes_in_circles_is_left(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    page = b'[["timestamp","original"],["20210101000000","http://a/"],[],["again"]]'
    archive.trouble = lambda ask: answer(page) if archive.index_asks else None
    with pytest.raises(SourceError, match="in circles"):
        scrape(via, source=PlainSource(SITE))
    assert len(archive.index_asks) == 2


def test_an_empty_index_is_said_and_leaves_all_for_another_run(
    archive: ArchiveStandIn, via: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    archive.record(OLD, url(0, 0), b"gone", statuscode="404")
    report = scrape(via, source=PlainSource(SITE))
    assert report.outcome == "incomplete"
    assert (report.counts["missing"], report.counts["pending"]) == (0, 12)
    assert states(via.workspace) == {}
    assert "has none of the requested images" in caplog.text
    archive.captures.clear()
    hold_all(archive)
    assert scrape(via, source=PlainSource(SITE)).counts["done"] == 12


def test_a_folder_that_the_archive_does_not_hold_is_said_whatever_it_holds_of_others(
    archive: ArchiveStandIn, via: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    hold_all(archive)
    assert scrape(via, source=PlainSource(SITE)).outcome == "done"
    report = scrape(replace(via, limit=9), source=PlainSource(SITE, section="others"))
    assert f"has none of the requested images ({SITE}/samples/others/)" in caplog.text
    assert report.outcome == "incomplete"
    assert report.counts["missing"] == 0


# --- Manners -------------------------------------------------------------------------------------


def test_an_archive_is_asked_slowly_unless_told_otherwise(quick: DalleBlogConfig) -> None:
    via = replace(quick, via="wayback")
    assert request_limits(quick) == (32, None)
    assert (request_limits(via), index_rate(via)) == ((2, 10.0), 0.5)
    slower = replace(via, rate=0.2, concurrency=1)
    assert (request_limits(slower), index_rate(slower)) == ((1, 0.2), 0.2)
    faster = replace(via, rate=90.0)
    assert (request_limits(faster), index_rate(faster)) == ((2, 10.0), 0.5)
    own = replace(via, archive_rate=4.0, archive_index_rate=0.1, archive_concurrency=8)
    assert (request_limits(own), index_rate(own)) == ((8, 4.0), 0.1)


def test_the_limits_hold_and_are_reported(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    hold_all(archive)
    started = time.monotonic()
    report = scrape(replace(via, archive_rate=20.0), source=PlainSource(SITE))
    assert time.monotonic() - started >= 12 / 20
    assert server.most_at_once <= 2
    limits = report.details["archive"]
    assert (limits["rate"], limits["concurrency"]) == (20.0, 2)


@pytest.mark.parametrize("part", ["/cdx/", "/web/"])
def test_a_busy_archive_is_given_the_time_it_asks_for(
    part: str, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    asked: list[float] = []

    def busy(ask: Ask) -> bytes | None:
        if not ask.path.startswith(part):
            return None
        asked.append(time.monotonic())
        return answer(b"", 429, Retry_After="1") if len(asked) == 1 else None

    hold_all(archive, captions=1, ranks=1)
    archive.trouble = busy
    assert scrape(via, source=PlainSource(SITE, captions=1, ranks=1)).counts["done"] == 1
    assert asked[1] - asked[0] >= 1.0


def test_an_archive_that_wants_no_robots_is_left_alone(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    hold_all(archive)
    server.robots = b"User-agent: *\nDisallow: /\n"
    with pytest.raises(SourceError, match="--ignore-opt-out"):
        scrape(via, source=PlainSource(SITE))
    assert not archive.index_asks
    assert scrape(replace(via, ignore_opt_out=True), source=PlainSource(SITE)).counts["done"] == 12


def test_what_the_site_said_when_it_was_recorded_is_respected(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive, captions=1, ranks=2)
    archive.captures[0] = replace(
        archive.captures[0], headers=(("X_Archive_Orig_X_Robots_Tag", "noai"),)
    )
    scrape(via, source=PlainSource(SITE, captions=1, ranks=2))
    assert states(via.workspace)[url(0, 0)] == ("opted_out", "x_robots_noai")


def test_an_archive_needs_a_web_address(via: DalleBlogConfig) -> None:
    with pytest.raises(ConfigError, match=r"--archive-url is 'web\.archive\.org'"):
        scrape(replace(via, archive_url="web.archive.org"), source=PlainSource(SITE))


# --- The page ------------------------------------------------------------------------------------


@dataclass
class SourceWithPage(PlainSource):
    """Reads its page, of which only the design of 2021 makes sense to it."""

    start_url: str | None = "https://blog.test/dall-e/"

    def discover(self, page: StartPage | None) -> Discovery:
        assert page is not None
        if b"captions" not in page.body:
            raise SourceError("Nothing could be read from the page.")
        return super().discover(page)


def test_the_page_comes_from_the_archive_too(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    hold_all(archive)
    page = "https://blog.test/dall-e/"
    archive.record(OLD, page, b"captions, of old", mimetype="text/html")
    archive.record(NEW, page, b"captions, newer", mimetype="text/html")
    source = SourceWithPage(SITE)
    report = scrape(via, source=source)
    assert report.counts["done"] == 12
    assert [page and page.body for page in source.pages] == [b"captions, newer"]
    assert (via.workspace / "raw" / "page.html").read_bytes() == b"captions, newer"
    assert f"/web/{NEW}id_/{page}" in (via.workspace / "raw" / "page.json").read_text()
    asked = len(archive.index_asks) + len(archive.replay_asks)
    assert scrape(via, source=source).outcome == "unchanged"
    scrape(replace(via, limit=9), source=source)
    assert len(archive.index_asks) + len(archive.replay_asks) == asked


def test_a_page_of_another_design_makes_way_for_one_of_an_earlier_year(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    page = "https://blog.test/dall-e/"
    for month in range(1, 13):
        archive.record(f"2021{month:02}05000000", page, b"captions", mimetype="text/html")
        for year in (2022, 2023, 2024):
            archive.record(f"{year}{month:02}05000000", page, b"<h1>new</h1>", mimetype="text/html")
    source = SourceWithPage(SITE)
    assert scrape(via, source=source).counts["done"] == 12
    tried = [path.split("/")[2][:6] for path in archive.replay_asks if path.endswith("/dall-e/")]
    assert tried == ["202412", "202401", "202301", "202201", "202101"]


@pytest.mark.parametrize(
    ("newest", "asked"),
    [
        (answer(b"<html>WARCPathLoader: no such file</html>", 503), 2),
        (answer(b"", 503, Memento_Datetime="Sun, 01 Aug 2021 12:00:00 GMT"), 2),
        (answer(b"", 302, Location="https://blog.test/new"), 2),
        (answer(b"<html>AdministrativeAccessControl</html>", 403), 1),
    ],
    ids=["lost", "recorded", "moved", "excluded"],
)
def test_a_page_that_is_not_to_be_had_makes_way_for_an_older_one_unless_it_is_excluded(
    newest: bytes, asked: int, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    for when in (OLD, NEW):
        archive.record(when, "https://blog.test/dall-e/", b"captions", mimetype="text/html")
    archive.trouble = lambda ask: newest if f"/web/{NEW}" in ask.path else None
    if asked == 2:
        assert scrape(via, source=SourceWithPage(SITE)).counts["done"] == 12
    else:
        with pytest.raises(SourceError, match="has excluded"):
            scrape(via, source=SourceWithPage(SITE))
    assert len([path for path in archive.replay_asks if path.endswith("/dall-e/")]) == asked


def test_a_page_is_not_asked_for_again_of_an_archive_that_stays_busy(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    for when in (OLD, NEW, NEWEST):
        archive.record(when, "https://blog.test/dall-e/", b"captions", mimetype="text/html")
    archive.trouble = lambda ask: answer(b"", 429) if ask.path.startswith("/web/") else None
    with pytest.raises(SourceError, match="status 429"):
        scrape(replace(via, max_outage_s=0.25), source=SourceWithPage(SITE))
    assert {path.split("/")[2] for path in archive.replay_asks} == {f"{NEWEST}id_"}


def test_a_page_of_the_archives_own_is_not_taken_for_the_one_that_it_holds(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    archive.record(OLD, "https://blog.test/dall-e/", b"<html>captions", mimetype="text/html")

    def busy_once(ask: Ask) -> bytes | None:
        is_page = ask.path.endswith("/dall-e/") and ask.path.startswith("/web/")
        return answer(b"<html>captions? Busy!") if is_page and ask.turn == 1 else None

    archive.trouble = busy_once
    scrape(via, source=SourceWithPage(SITE))
    assert (via.workspace / "raw" / "page.html").read_bytes() == b"<html>captions"


@pytest.mark.parametrize("held", [0, 1])
def test_no_page_to_be_read_is_said_in_a_sentence(
    held: int, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    if held:
        archive.record(OLD, "https://blog.test/dall-e/", b"<h1>new</h1>", mimetype="text/html")
    says = "none of 1 captures could be read" if held else "has no good capture"
    with pytest.raises(SourceError, match=f"{says}.*--no-page"):
        scrape(via, source=SourceWithPage(SITE))


@dataclass
class RefusedPage(SourceWithPage):
    """Refuses its use where the page says so."""

    def discover(self, page: StartPage | None) -> Discovery:
        assert page is not None
        self.page_meta = (("robots", "noai"),) if b"noai" in page.body else ()
        return super().discover(page)


def test_an_older_capture_is_no_way_around_a_refusing_page_in_which_nothing_is_readable(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    page = "https://blog.test/dall-e/"
    archive.record(OLD, page, b"captions, of old", mimetype="text/html")
    body = b"<html><head><META NAME=robots CONTENT='noai'></head><h1>new</h1>"
    archive.record(NEW, page, body, mimetype="text/html")
    with pytest.raises(SourceError, match="opts out of any use of its captions"):
        scrape(via, source=SourceWithPage(SITE))
    assert len([path for path in archive.replay_asks if path.endswith("/dall-e/")]) == 1
    assert scrape(replace(via, ignore_opt_out=True), source=SourceWithPage(SITE)).counts["done"]


@pytest.mark.parametrize("by_header", [False, True])
def test_an_older_capture_is_no_way_around_a_page_that_refuses(
    by_header: bool, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    page = "https://blog.test/dall-e/"
    archive.record(OLD, page, b"captions, of old", mimetype="text/html")
    body = b"captions, newer" if by_header else b"captions, noai"
    archive.record(NEW, page, body, mimetype="text/html")
    if by_header:
        tag = (("X_Archive_Orig_X_Robots_Tag", "noai"),)
        archive.captures[-1] = replace(archive.captures[-1], headers=tag)
    with pytest.raises(SourceError, match="noai"):
        scrape(via, source=RefusedPage(SITE))
    assert len([path for path in archive.replay_asks if path.endswith("/dall-e/")]) == 1
