"""What an archive answers instead of a capture, and what it says of the one that it gives."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace

import pytest

from pipeline.core.errors import SourceError
from scrapers.fetch.optouts.tdmrep import TDMREP_PATH
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.wayback.query import IndexPage, IndexRow, dialect_of, parse_index
from tests.helpers.crawls import Ask, PlainSource, Server, answer, png, states, stored
from tests.scrapers.wayback.archive_stand_in import ArchiveStandIn
from tests.scrapers.wayback.test_wayback import NEW, OLD, SITE, final_urls, hold_all, url

ONE = PlainSource(SITE, captions=1, ranks=1)


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
        archive_url=server.url,
        archive_rate=1000.0,
        archive_index_rate=1000.0,
    )


# --- The index -----------------------------------------------------------------------------------


def test_an_index_that_ends_at_its_scan_limit_is_asked_for_shorter_times(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    for caption in range(6):
        for rank in range(4):
            when = f"2021{caption + 1:02}{rank + 1:02}000000"
            archive.record(when, url(caption, rank), png(url(caption, rank)))
    archive.scan_limit = 7
    report = scrape(via, source=PlainSource(SITE, captions=6))
    assert report.counts["done"] == 24
    assert report.details["archive"]["doubts"] == {}


def test_what_an_index_cuts_in_a_second_is_said_to_be_uncertain(
    archive: ArchiveStandIn, via: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    hold_all(archive)
    archive.scan_limit = 7
    report = scrape(via, source=PlainSource(SITE))
    assert report.counts["done"] == 7
    assert Counter(states(via.workspace).values())["missing", "not_listed"] == 5
    assert list(report.details["archive"]["doubts"]) == [f"{SITE}/samples/things/"]
    assert "may have more" in caplog.text


def test_rows_that_a_resume_key_skips_are_asked_for(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    """Two URLs that differ by case share key and time; a page ends between them."""
    for name in ("a0_0", "C0_0", "c0_0", "c0_1"):
        archive.record(OLD, f"{SITE}/samples/things/{name}.png", png(name))
    archive.rows_per_page, archive.skips = 2, True
    report = scrape(via, source=PlainSource(SITE, captions=1, ranks=2))
    assert report.details["archive"]["captures"] == 4
    # The archive gives the first of the look-alikes for either.
    assert states(via.workspace)[url(0, 0)] == ("failed", "other_image")


def test_an_index_that_does_not_give_its_last_row_leaves_a_doubt(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    hold_all(archive)
    archive.trouble = lambda ask: answer(b"", 400) if "limit=-1" in ask.path else None
    report = scrape(via, source=PlainSource(SITE))
    assert report.counts["done"] == 12
    assert "doesn't say" in "".join(report.details["archive"]["doubts"].values())


@pytest.mark.parametrize("layout", ["/cdx", "/timemap/cdx", "-cdx", "-index"])
def test_an_index_is_found_where_other_archives_have_it(
    layout: str, archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    """A collection `/1068` of an archive; its replay stands right under it."""
    hold_all(archive)

    async def collection(ask: Ask) -> bytes | None:
        path, mark, query = ask.path.partition("?")
        if path == f"/1068{layout}":
            ask.path = f"/cdx/search/cdx{mark}{query}"
        elif path.startswith("/1068/2"):
            ask.path = f"/web{ask.path.removeprefix('/1068')}"
        else:
            return answer(b"<html>Not Found</html>", 404)
        return await archive(ask)

    server.behaviour = collection
    via = replace(via, archive_url=f"{server.url}/1068/")
    assert scrape(via, source=PlainSource(SITE)).counts["done"] == 12
    assert final_urls(via)[url(0, 0)] == f"{server.url}/1068/{OLD}id_/{url(0, 0)}"
    asked = len(server.asked)
    assert scrape(replace(via, refresh=True), source=PlainSource(SITE)).outcome == "unchanged"
    again = [path for path, _ in server.asked[asked:] if "cdx" in path or "index" in path]
    assert {path.partition("?")[0] for path in again} == {f"/1068{layout}"}


@pytest.mark.parametrize("body", [b"<!doctype html><h1>Welcome</h1>", b"{}", b"[1]", b"", b"OK"])
def test_an_archive_that_answers_nonsense_with_200_is_no_archive(
    body: bytes, via: DalleBlogConfig, server: Server
) -> None:
    async def nonsense(ask: Ask) -> bytes:
        return answer(body)

    server.behaviour = nonsense
    with pytest.raises(SourceError, match=r"No index was found .*--archive-url"):
        scrape(via, source=ONE)
    assert states(via.workspace) == {}
    assert max(server.image_hits.values()) == 1


KEY = b"test,blog)/dall-e/samples/things/c0_0.png"
ROW = f"{OLD} {url(0, 0)} image/png 200 {'A' * 32}".encode()
JSON_ROW = b'{"url": "%b", "mime": "image/png", "status": "200", "digest": "%b"}'


@pytest.mark.parametrize(
    ("body", "dialect", "resume_key"),
    [
        (KEY + b" " + ROW + b" - - 123 456 a.warc.gz\n", "cdx-server", None),
        (KEY + b" " + ROW + b"\n\ntest%2Cblog+2021\n", "cdx-server", "test%2Cblog+2021"),
        (
            KEY + b" " + OLD.encode() + b" " + JSON_ROW % (url(0, 0).encode(), b"A" * 32),
            "pywb",
            None,
        ),
    ],
    ids=["cdx", "resumed", "cdxj"],
)
def test_an_index_in_plain_text_is_read(body: bytes, dialect: str, resume_key: str | None) -> None:
    assert dialect_of(body, "text/plain") == dialect
    row = IndexRow(OLD, url(0, 0), "image/png", "A" * 32, "200")
    assert parse_index(body, "cdx-server") == IndexPage([row], resume_key)


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 403])
def test_an_index_that_excludes_the_site_is_said(
    status: int, archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    says = (
        b"org.archive.wayback.exception.AdministrativeAccessControlException: Blocked Site Error\n"
    )
    body = says if status == 403 else b"<html><body>" + says + b"</body></html>"
    archive.trouble = lambda ask: answer(body, status)
    with pytest.raises(SourceError, match=r"administrator .* has excluded"):
        scrape(via, source=ONE)
    assert len(archive.checks) == 1


@pytest.mark.parametrize(
    ("status", "body", "headers"),
    [
        (403, b"", {"X_Archive_Wayback_Runtime_Error": "AdministrativeAccessControlException: x"}),
        (403, b"<html>AdministrativeAccessControlException</html>", {}),
        (200, b"<html>This URL has been excluded from the Wayback Machine.</html>", {}),
        (451, b"<html>Access Blocked</html>", {}),
    ],
)
def test_a_capture_that_is_excluded_is_a_state_of_its_own(
    status: int, body: bytes, headers: dict[str, str], archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(OLD, url(0, 0), png("x"))
    archive.record(NEW, url(0, 0), png("y"))
    archive.trouble = lambda ask: (
        answer(body, status, None, **headers) if ask.path.startswith("/web/") else None
    )
    assert scrape(via, source=ONE).outcome == "done"
    assert states(via.workspace) == {url(0, 0): ("missing", "archive_excluded")}
    assert len(archive.replay_asks) == 1


def test_the_archives_own_robots_tag_is_not_that_of_the_site(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    for rank, headers in enumerate(
        (
            (("X_Robots_Tag", "noindex"), ("X_Archive_Orig_Server", "nginx")),
            (("X_Robots_Tag", "noindex"), ("X_Archive_Orig_X_Robots_Tag", "noimageai")),
            (("X_Robots_Tag", "noai"), ("X_Archive_Orig_Server", "nginx")),
            (("X_Robots_Tag", "noai"),),  # recorded headers as they were
        )
    ):
        archive.record(OLD, url(0, rank), png("x"))
        archive.captures[-1] = replace(archive.captures[-1], headers=headers)
    scrape(via, source=PlainSource(SITE, captions=1, ranks=4))
    assert states(via.workspace) == {
        url(0, 0): ("done", None),
        url(0, 1): ("opted_out", "x_robots_noimageai"),
        url(0, 2): ("failed", "archive_x_robots_noai"),
        url(0, 3): ("opted_out", "x_robots_noai"),
    }


def test_what_the_index_says_in_its_headers_is_remembered_as_the_archives_own(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    """Recorded headers as they were, and a front of the archive that adds one to every answer."""
    own = (("X_Robots_Tag", "noindex"),)
    for rank in range(2):
        archive.record(OLD, url(0, rank), png("x"))
        archive.captures[-1] = replace(archive.captures[-1], headers=own)
    real = archive.index
    archive.index = lambda query: real(query).replace(  # type: ignore[method-assign]
        b"\r\n\r\n", b"\r\nX-Robots-Tag: noindex\r\n\r\n", 1
    )
    scrape(via, source=ONE)
    scrape(via, source=PlainSource(SITE, captions=1, ranks=2))  # asks the index nothing
    assert set(states(via.workspace).values()) == {("done", None)}


def test_an_index_that_refuses_is_not_used(archive: ArchiveStandIn, via: DalleBlogConfig) -> None:
    hold_all(archive, 1, 1)
    table = b'[["timestamp","original"]]'
    archive.trouble = lambda ask: answer(table, X_Robots_Tag="noai") if "cdx" in ask.path else None
    with pytest.raises(SourceError, match=r"opts out of being used .*noai"):
        scrape(via, source=ONE)


def test_why_an_archive_is_not_asked_is_said_as_it_is(
    archive: ArchiveStandIn, via: DalleBlogConfig, server: Server
) -> None:
    server.tdmrep_answer = answer(b'[{"location": "/cdx*", "tdm-reservation": 1}]')
    with pytest.raises(SourceError, match=rf"is opted out \(tdmrep.json in .*{TDMREP_PATH}"):
        scrape(via, source=ONE)
    listed = via.workspace.parent / "opt-outs.txt"
    listed.write_text(f"{server.url}/\n")
    with pytest.raises(SourceError, match="opt-outs-file"):
        scrape(replace(via, opt_outs=listed), source=ONE)
    assert not archive.index_asks


# --- Which capture it is --------------------------------------------------------------------------


def test_the_ledger_names_the_capture_that_the_archive_says_it_served(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    """Without a redirect the archive gives an older one, and says so in its headers."""
    archive.record(NEW, url(0, 0), png("newer"))
    archive.trouble = lambda ask: (
        answer(png("older"), Memento_Datetime="Wed, 06 Jan 2021 00:00:00 GMT")
        if ask.path.startswith("/web/")
        else None
    )
    scrape(via, source=ONE)
    assert final_urls(via) == {url(0, 0): f"{via.archive_url}/web/{OLD}id_/{url(0, 0)}"}


def test_another_url_under_content_location_is_another_image(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    archive.record(NEW, url(0, 0), png("right"))
    archive.trouble = lambda ask: (
        answer(
            png("another"),
            Memento_Datetime="Wed, 06 Jan 2021 00:00:00 GMT",
            Content_Location=f"/web/{OLD}id_/{url(7, 7)}",
        )
        if ask.path.startswith("/web/")
        else None
    )
    scrape(via, source=ONE)
    assert states(via.workspace) == {url(0, 0): ("failed", "other_address")}


def test_a_revisit_may_be_answered_with_the_url_that_it_repeats(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    first = "https://old.test/the-same.png"
    archive.record(OLD, first, png("same"))
    archive.record(NEW, url(0, 0), png("same"), mimetype="warc/revisit", statuscode="-")
    archive.trouble = lambda ask: (
        answer(b"", 302, Location=f"/web/{OLD}id_/{first}") if f"/web/{NEW}" in ask.path else None
    )
    scrape(via, source=ONE)
    assert stored(via.workspace) == {url(0, 0): png("same")}
    assert final_urls(via)[url(0, 0)] == f"{via.archive_url}/web/{OLD}id_/{first}"


def test_a_recorded_error_is_none_of_the_archives(
    archive: ArchiveStandIn, via: DalleBlogConfig
) -> None:
    """The index does not know the status of a revisit."""
    archive.record(NEW, url(0, 0), png("newer"), mimetype="warc/revisit", statuscode="-")
    archive.record(OLD, url(0, 0), png("older"))
    archive.trouble = lambda ask: (
        answer(b"", 503, Memento_Datetime="Sun, 01 Aug 2021 12:00:00 GMT")
        if f"/web/{NEW}" in ask.path
        else None
    )
    scrape(via, source=ONE)
    assert stored(via.workspace) == {url(0, 0): png("older")}
    assert len(archive.replay_asks) == 2


# --- Rests ---------------------------------------------------------------------------------------


BUSY = [
    answer(b"", 429),
    answer(b"", 503),
    answer(b"", 504),
    answer(b"<html><h1>Too many requests</h1></html>"),
]


@pytest.mark.parametrize("busy", BUSY, ids=["429", "503", "504", "page"])
@pytest.mark.parametrize("part", ["/cdx/", "/web/"])
def test_an_archive_that_is_asked_too_much_gets_a_rest_and_then_a_longer_one(
    part: str,
    busy: bytes,
    archive: ArchiveStandIn,
    via: DalleBlogConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("scrapers.wayback.archive.REST_S", 0.4)
    asked: list[float] = []

    def too_much(ask: Ask) -> bytes | None:
        if not ask.path.startswith(part) or (part == "/cdx/" and not archive.index_asks):
            return None
        asked.append(time.monotonic())
        return busy if len(asked) <= 2 else None

    hold_all(archive, captions=1, ranks=1)
    archive.trouble = too_much
    assert scrape(via, source=ONE).counts["done"] == 1
    assert asked[1] - asked[0] >= 0.4
    assert asked[2] - asked[1] >= 0.8


def test_an_archive_that_stays_busy_is_left_for_another_run(
    archive: ArchiveStandIn, via: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scrapers.wayback.archive.REST_S", 0.3)
    hold_all(archive)
    archive.trouble = lambda ask: answer(b"", 429) if ask.path.startswith("/web/") else None
    via = replace(via, max_outage_s=1.0, archive_concurrency=1)
    report = scrape(via, source=PlainSource(SITE))
    assert report.outcome == "incomplete"
    assert report.counts["pending"] == 12
    assert len(archive.replay_asks) == 3
    archive.trouble = lambda ask: None
    assert scrape(via, source=PlainSource(SITE)).counts["done"] == 12


def test_a_capture_that_is_broken_for_ever_does_not_hold_up_the_others(
    archive: ArchiveStandIn, via: DalleBlogConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scrapers.wayback.archive.REST_S", 0.3)
    hold_all(archive, captions=1, ranks=2)
    archive.trouble = lambda ask: answer(b"", 503) if ask.path.endswith("c0_0.png") else None
    via = replace(via, max_outage_s=1.0, archive_concurrency=1)
    source = PlainSource(SITE, captions=1, ranks=2)
    for _ in range(2):
        assert scrape(via, source=source).outcome == "incomplete"
    assert states(via.workspace) == {url(0, 0): ("failed", "http_503"), url(0, 1): ("done", None)}


def test_both_rates_hold_and_are_said(
    archive: ArchiveStandIn, via: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    hold_all(archive)
    via = replace(via, archive_index_rate=4.0, archive_rate=40.0)
    started = time.monotonic()
    report = scrape(via, source=PlainSource(SITE))
    # A probe, a list, its last row; twelve captures.
    assert time.monotonic() - started >= 2 / 4 + 11 / 40
    said = report.details["archive"]
    assert (said["index_rate"], said["rate"]) == (4.0, 40.0)
    assert "240 index queries per minute" in caplog.text
    assert "2400 captures per minute" in caplog.text
