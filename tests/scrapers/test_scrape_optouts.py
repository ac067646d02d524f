"""Opt-outs end to end: each signal over a real server, with its evidence in the ledger and no bytes kept."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.core.contracts import StageReport
from pipeline.core.errors import ConfigError, SourceError
from pipeline.core.remembered import kept_options
from scrapers.fetch.optouts.signals import SIGNALS
from scrapers.fetch.optouts.tdmrep import TDMREP_PATH
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_schema import items_view
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.core.image_decode.files import encode, photo
from tests.helpers.crawls import Ask, PlainSource, Server, answer, members, png, states, stored
from tests.scrapers.fetch.optouts.files import (
    assertion,
    gif_with_xmp,
    jpeg_with_extended_xmp,
    jpeg_with_store,
    jpeg_with_xmp,
    png_with_store,
    png_with_xmp,
    prohibiting,
    store,
    training,
    with_xmp,
)

Behaviour = Callable[[Ask], Awaitable[bytes | None]]


def evidence(root: Path) -> dict[str, dict[str, str]]:
    """The last part of each URL that has evidence, and what it is."""
    ledger = Ledger(root / "raw" / "ledger.sqlite")
    rows = ledger.query("SELECT url, evidence FROM items WHERE evidence IS NOT NULL")
    found = {str(url).rpartition("/")[2]: json.loads(str(text)) for url, text in rows}
    ledger.close()
    return found


def only_first(body: bytes | None = None, /, **headers: Any) -> Behaviour:
    """The image of rank 0 comes with these bytes and headers, the others are as ever."""

    async def behave(ask: Ask) -> bytes:
        if ask.path.endswith("_0.png"):
            return answer(body or png(ask.path), **headers)
        return answer(png(ask.path))

    return behave


def crawl(server: Server, config: DalleBlogConfig, **options: Any) -> StageReport:
    return scrape(config, source=PlainSource(server.url, captions=1, **options))


@pytest.mark.parametrize(
    ("headers", "signal", "reason", "text"),
    [
        ({"X_Robots_Tag": "noai"}, "x-robots-tag", "x_robots_noai", "X-Robots-Tag: noai"),
        ({"X_Robots_Tag": "Dalle-Pipeline: noindex"}, "x-robots-tag", "x_robots_noindex",
         "X-Robots-Tag: Dalle-Pipeline: noindex"),
        ({"tdm_reservation": "1", "tdm_policy": "/p.json"}, "tdm-reservation", "tdm_reservation",
         "tdm-reservation: 1; tdm-policy: /p.json"),
        ({"Content_Usage": "search=y, train-ai=n"}, "content-usage", "content_usage",
         "Content-Usage: search=y, train-ai=n"),
    ],
)  # fmt: skip
def test_headers(
    headers: dict[str, Any], signal: str, reason: str, text: str,
    server: Server, quick: DalleBlogConfig,
) -> None:  # fmt: skip
    server.behaviour = only_first(**headers)
    report = crawl(server, quick)
    assert (report.counts["opted_out"], report.counts["done"]) == (1, 3)
    url = f"{server.url}/samples/things/c0_0.png"
    assert states(quick.workspace)[url] == ("opted_out", reason)
    found = evidence(quick.workspace)
    when = found["c0_0.png"].pop("when")
    assert found == {"c0_0.png": {"signal": signal, "where": url, "text": text}}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", when)
    assert len(stored(quick.workspace)) == 3
    assert report.outcome == "done"


IMAGES: dict[str, tuple[Callable[[], bytes], str]] = {
    "XMP in a JPEG": (lambda: jpeg_with_xmp(prohibiting()), "iptc_data_mining"),
    "extended XMP in a JPEG": (lambda: jpeg_with_extended_xmp(prohibiting()), "iptc_data_mining"),
    "XMP in a PNG": (lambda: png_with_xmp(prohibiting()), "iptc_data_mining"),
    "XMP in a GIF": (lambda: gif_with_xmp(prohibiting()), "iptc_data_mining"),
    "XMP in a WebP": (lambda: with_xmp("WEBP", prohibiting()), "iptc_data_mining"),
    "XMP in a TIFF": (lambda: with_xmp("TIFF", prohibiting()), "iptc_data_mining"),
    "XMP in an AVIF": (lambda: with_xmp("AVIF", prohibiting()), "iptc_data_mining"),
    "C2PA in a JPEG": (
        lambda: jpeg_with_store(store(assertion("c2pa.training-mining", training(maker="c2pa")))),
        "c2pa_training_mining",
    ),
    "CAWG in a PNG": (
        lambda: png_with_store(store(assertion("cawg.training-mining", training()))),
        "c2pa_training_mining",
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_the_bytes_of_an_image(name: str, server: Server, quick: DalleBlogConfig) -> None:
    make, reason = IMAGES[name]
    body = make()
    server.behaviour = only_first(body)
    report = crawl(server, quick)
    url = f"{server.url}/samples/things/c0_0.png"
    assert states(quick.workspace)[url] == ("opted_out", reason)
    assert report.details["requests"] == 4
    assert evidence(quick.workspace)["c0_0.png"]["signal"] in SIGNALS
    # Nothing of it is kept, neither in the ledger nor in a segment.
    assert body not in members(quick.workspace).values()
    assert not any(name.startswith("things-c0-00") for name in members(quick.workspace))
    ignoring = replace(quick, workspace=quick.workspace / "ignoring", ignore_opt_out=True)
    assert crawl(server, ignoring).counts["done"] == 4
    assert body in stored(ignoring.workspace).values()


def test_robots_and_usage_rules_are_evidence(server: Server, quick: DalleBlogConfig) -> None:
    server.robots = (
        b"User-agent: *\nDisallow: /*_1.png$\nContent-Usage: train-ai=y\n"
        b"Content-Usage: /samples/*_2.png train-ai=n\n"
    )
    report = crawl(server, quick)
    assert (report.counts["opted_out"], report.counts["done"]) == (2, 2)
    found = evidence(quick.workspace)
    assert {name: (e["signal"], e["text"]) for name, e in found.items()} == {
        "c0_1.png": ("robots.txt", "Disallow: /*_1.png$"),
        "c0_2.png": ("robots-content-usage", "Content-Usage: /samples/*_2.png train-ai=n"),
    }
    assert {e["where"] for e in found.values()} == {f"{server.url}/robots.txt"}
    assert not any(path.endswith(("_1.png", "_2.png")) for path in server.image_hits)


def test_where_a_redirect_leads_is_evidence(server: Server, quick: DalleBlogConfig) -> None:
    server.robots = b"User-agent: *\nContent-Usage: /art/ train-ai=n\n"

    async def behave(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location="/art/x.png")
        return answer(png(ask.path))

    server.behaviour = behave
    assert crawl(server, quick).counts["opted_out"] == 1
    assert evidence(quick.workspace)["c0_1.png"]["text"] == "Content-Usage: /art/ train-ai=n"
    assert "/art/x.png" not in server.hits


def test_an_unchanged_image_may_be_withdrawn(server: Server, quick: DalleBlogConfig) -> None:
    """A 304 carries headers, too."""
    tag: dict[str, Any] = {}

    async def behave(ask: Ask) -> bytes:
        if "if-none-match" in ask.headers:
            return answer(status=304, **tag)
        return answer(png(ask.path), ETag='"1"')

    server.behaviour = behave
    assert crawl(server, quick).counts["done"] == 4
    tag["X_Robots_Tag"] = "noai"
    assert crawl(server, replace(quick, refresh=True)).counts["opted_out"] == 4
    assert evidence(quick.workspace)["c0_3.png"]["text"] == "X-Robots-Tag: noai"
    tag.clear()
    assert crawl(server, replace(quick, refresh=True)).counts["done"] == 4
    assert evidence(quick.workspace) == {}


# --- TDMRep --------------------------------------------------------------------------------------


def tdmrep(*rules: dict[str, Any]) -> bytes:
    return answer(json.dumps(rules).encode())


def rule(location: str, reservation: int) -> dict[str, Any]:
    return {"location": location, "tdm-reservation": reservation}


def test_the_tdmrep_file_is_asked_before_anything_else(
    server: Server, quick: DalleBlogConfig
) -> None:
    crawl(server, quick)
    paths = [path for path, _ in server.asked]
    assert paths[:2] == ["/robots.txt", TDMREP_PATH]
    assert paths.count(TDMREP_PATH) == 1


@pytest.mark.parametrize(
    ("rules", "header", "state"),
    [
        ([], None, "done"),
        ([], "1", "opted_out"),
        ([rule("/", 1)], None, "opted_out"),
        ([rule("/", 1)], "1", "opted_out"),
        ([rule("/", 0)], None, "done"),
        # The headers override the file, and their absence does not reset it.
        ([rule("/", 1)], "0", "done"),
        ([rule("/", 0)], "1", "opted_out"),
        ([rule("/", 1)], "nonsense", "opted_out"),
        # The first match.
        ([rule("/samples/", 0), rule("/", 1)], None, "done"),
        ([rule("/samples/", 1), rule("/", 0)], None, "opted_out"),
        ([rule("/other/", 1)], None, "done"),
    ],
)
def test_file_and_headers(
    rules: list[dict[str, Any]], header: str | None, state: str,
    server: Server, quick: DalleBlogConfig,
) -> None:  # fmt: skip
    server.tdmrep_answer = tdmrep(*rules)

    async def behave(ask: Ask) -> bytes:
        headers: dict[str, Any] = {} if header is None else {"tdm_reservation": header}
        return answer(png(ask.path), **headers)

    server.behaviour = behave
    crawl(server, quick)
    assert {found for found, _ in states(quick.workspace).values()} == {state}


def test_of_what_the_file_reserves_one_address_is_asked_a_rule(
    server: Server, quick: DalleBlogConfig
) -> None:
    """Whether a header sets the rule aside can't be known otherwise."""
    server.tdmrep_answer = tdmrep(rule("/*_1.png", 1), rule("/*_2.png", 1), rule("/", 0))
    report = scrape(quick, source=PlainSource(server.url, captions=20, ranks=4))
    assert (report.counts["opted_out"], report.counts["done"]) == (40, 40)
    reserved = [
        path for path in server.image_hits.elements() if path.endswith(("_1.png", "_2.png"))
    ]
    assert len(reserved) == 2
    found = evidence(quick.workspace)["c7_1.png"]
    assert (found["signal"], found["where"]) == ("tdmrep.json", server.url + TDMREP_PATH)
    assert json.loads(found["text"]) == rule("/*_1.png", 1)


def test_a_header_that_sets_the_file_aside_once_does_not_do_it_for_all(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.tdmrep_answer = tdmrep(rule("/", 1))
    server.behaviour = only_first(tdm_reservation="0")
    report = crawl(server, quick)
    assert (report.counts["done"], report.counts["opted_out"]) == (1, 3)


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><title>Home</title>", b"", b"[{]", b'{"no": "rule"}']
)
def test_a_host_whose_file_is_something_else_has_none(
    body: bytes, server: Server, quick: DalleBlogConfig
) -> None:
    server.tdmrep_answer = answer(body)
    assert crawl(server, quick).counts["done"] == 4


def test_a_broken_file_is_named(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server.tdmrep_answer = answer(b'[{"location": "/", "tdm-reservation": 1},]')
    assert crawl(server, quick).counts["done"] == 4
    assert f"{server.url}{TDMREP_PATH} can't be read: no JSON" in caplog.text


def test_a_file_that_can_not_be_had_is_asked_again_and_named(
    server: Server, quick: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    server.tdmrep_answer = answer(b"", 503)
    assert crawl(server, quick).counts["done"] == 4
    assert server.hits[TDMREP_PATH] == 4
    assert "can't be fetched (status 503)" in caplog.text


def test_a_host_that_forbids_the_file_is_not_asked_for_it(
    server: Server, quick: DalleBlogConfig
) -> None:
    server.robots = b"User-agent: *\nDisallow: /.well-known/\n"
    assert crawl(server, quick).counts["done"] == 4
    assert server.hits[TDMREP_PATH] == 0


def test_who_ignores_opt_outs_asks_for_none(server: Server, quick: DalleBlogConfig) -> None:
    server.tdmrep_answer = tdmrep(rule("/", 1))
    assert crawl(server, replace(quick, ignore_opt_out=True)).counts["done"] == 4
    assert server.hits[TDMREP_PATH] == 0


# --- The page ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "meta", [("robots", "noai, noimageai"), ("tdm-reservation", "1"), ("dalle-pipeline", "noai")]
)
def test_a_page_that_refuses_its_use_is_not_used(
    meta: tuple[str, str], server: Server, quick: DalleBlogConfig
) -> None:
    source = PlainSource(server.url, captions=1, start_url=f"{server.url}/page", page_meta=(meta,))

    async def behave(ask: Ask) -> bytes:
        return answer(b"<html></html>") if ask.path == "/page" else answer(png(ask.path))

    server.behaviour = behave
    with pytest.raises(SourceError, match=r"opts out of any use of its captions and images"):
        scrape(quick, source=source)
    assert set(server.image_hits) == {"/page"}
    assert not (quick.workspace / "raw" / "page.html").exists()
    assert not (quick.workspace / "raw" / "ledger.sqlite").exists()
    with pytest.raises(SourceError, match="opts out of any use of"):
        scrape(replace(quick, plan=True), source=source)
    assert scrape(replace(quick, ignore_opt_out=True), source=source).counts["done"] == 4


# --- The user's list -----------------------------------------------------------------------------


def listing(config: DalleBlogConfig, tmp_path: Path, *lines: str) -> DalleBlogConfig:
    file = tmp_path / "opt-outs.txt"
    file.write_text("".join(f"{line}\n" for line in lines))
    return replace(config, opt_outs=file)


def test_a_listed_host_is_asked_for_nothing(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    report = crawl(server, listing(quick, tmp_path, "127.0.0.1"))
    assert report.counts["opted_out"] == 4
    assert not server.hits
    found = evidence(quick.workspace)["c0_0.png"]
    assert (found["signal"], found["text"]) == ("opt-outs-file", "127.0.0.1")
    assert found["where"].endswith("opt-outs.txt:1")


def test_listed_prefixes_and_hashes(server: Server, quick: DalleBlogConfig, tmp_path: Path) -> None:
    path = "/samples/things/c0_"
    digest = hashlib.sha256(png(f"{path}1.png")).hexdigest()
    config = listing(quick, tmp_path, "# two", f"{server.url}{path}0", digest)
    report = crawl(server, config)
    assert (report.counts["opted_out"], report.counts["done"]) == (2, 2)
    found = {name: e["where"].rpartition(":")[2] for name, e in evidence(quick.workspace).items()}
    assert found == {"c0_0.png": "2", "c0_1.png": "3"}
    assert not any(name.endswith("_0.png") for name in server.image_hits)
    assert png(f"{path}1.png") not in members(quick.workspace).values()


def test_the_list_holds_where_other_opt_outs_are_ignored(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    config = listing(
        replace(quick, ignore_opt_out=True), tmp_path, f"{server.url}/samples/things/c0_2"
    )
    assert crawl(server, config).counts["opted_out"] == 1


def test_what_was_stored_before_it_was_listed_is_withdrawn(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    path = "/samples/things/c0_"
    assert crawl(server, quick).counts["done"] == 4
    asked = sum(server.hits.values())
    digest = hashlib.sha256(png(f"{path}3.png")).hexdigest()
    config = listing(quick, tmp_path, digest, f"{server.url}{path}1.png")
    report = crawl(server, config)
    assert (report.counts["opted_out"], report.counts["done"]) == (2, 2)
    assert (report.outcome, report.details["withdrawn"]) == ("done", 2)
    assert set(evidence(quick.workspace)) == {"c0_1.png", "c0_3.png"}
    assert set(stored(quick.workspace)) == {f"{server.url}{path}{n}.png" for n in (0, 2)}
    assert sum(server.image_hits.values()) == 4
    assert sum(server.hits.values()) == asked
    assert crawl(server, config).outcome == "unchanged"


def test_a_workspace_remembers_its_list_and_never_to_ignore_opt_outs(tmp_path: Path) -> None:
    config = DalleBlogConfig(ignore_opt_out=True, opt_outs=tmp_path / "list", keep_refused=True)
    kept = kept_options(config)
    assert kept == {"opt_outs": str(tmp_path / "list"), "keep_refused": True}


def test_a_redirect_to_a_listed_address_is_not_followed(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    async def behave(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(status=302, Location="/elsewhere/x.png")
        return answer(png(ask.path))

    server.behaviour = behave
    report = crawl(server, listing(quick, tmp_path, f"{server.url}/elsewhere/"))
    assert report.counts["opted_out"] == 1
    assert evidence(quick.workspace)["c0_1.png"]["signal"] == "opt-outs-file"
    assert "/elsewhere/x.png" not in server.hits


def test_a_list_that_is_none_is_named_before_anything_is_asked(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="line 1"):
        crawl(server, listing(quick, tmp_path, "not a domain"))
    with pytest.raises(ConfigError, match=r"--opt-outs .* can't be read"):
        crawl(server, replace(quick, opt_outs=tmp_path / "nowhere"))
    assert not server.hits


# --- The ledger ----------------------------------------------------------------------------------


def test_the_evidence_is_exported(server: Server, quick: DalleBlogConfig, tmp_path: Path) -> None:
    server.behaviour = only_first(X_Robots_Tag="noai")
    crawl(server, quick)
    out = tmp_path / "ledger.parquet"
    scrape(replace(quick, export=out), source=PlainSource(server.url))
    rows = pq.read_table(out).to_pylist()
    found = {row["state"]: row["evidence"] for row in rows}
    assert found["done"] is None
    assert json.loads(found["opted_out"])["signal"] == "x-robots-tag"


def age(root: Path) -> None:
    """Make a ledger as versions without the column left it."""
    with sqlite3.connect(root / "raw" / "ledger.sqlite") as connection:
        connection.execute("DROP VIEW items")
        connection.execute("ALTER TABLE urls DROP COLUMN evidence")
        connection.execute("UPDATE meta SET value = '1' WHERE name = 'version'")
        view = "\n".join(
            line for line in items_view().splitlines() if not line.strip().startswith("u.evidence")
        )
        connection.execute(view.replace(",\nFROM", "\nFROM"))
    connection.close()


def test_a_ledger_without_evidence_is_exported_and_goes_on(
    server: Server, quick: DalleBlogConfig, tmp_path: Path
) -> None:
    crawl(server, quick, ranks=2)
    age(quick.workspace)
    out = tmp_path / "ledger.parquet"
    scrape(replace(quick, export=out), source=PlainSource(server.url))
    assert pq.read_table(out)["evidence"].to_pylist() == [None, None]
    server.behaviour = only_first(X_Robots_Tag="noai")
    report = scrape(replace(quick, limit=2), source=PlainSource(server.url, captions=2, ranks=2))
    assert (report.counts["done"], report.counts["opted_out"]) == (3, 1)
    assert evidence(quick.workspace)["c1_0.png"]["text"] == "X-Robots-Tag: noai"


def test_long_and_odd_words_are_kept_as_ascii_json(server: Server, quick: DalleBlogConfig) -> None:
    server.behaviour = only_first(X_Robots_Tag="noai, " + "ü" * 900)
    crawl(server, quick)
    assert len(evidence(quick.workspace)["c0_0.png"]["text"]) == 500


# --- Odd images ----------------------------------------------------------------------------------


def test_images_with_odd_ends_are_stored_at_once_and_flagged(
    server: Server, quick: DalleBlogConfig
) -> None:
    jpeg = encode(photo(1), "JPEG")
    bodies = {
        "0": jpeg + bytes(4000),
        "1": jpeg[:-2],
        "2": encode(photo(2), "GIF") + b"\r\n",
        "3": encode(photo(3), "AVIF"),
    }

    async def behave(ask: Ask) -> bytes:
        return answer(bodies[ask.path[-5]])

    server.behaviour = behave
    report = crawl(server, quick)
    assert (report.counts["done"], report.details["requests"]) == (4, 4)
    flagged = {url[-5]: reason for url, (_, reason) in states(quick.workspace).items()}
    assert flagged == {"0": "trailing_bytes", "1": "no_end", "2": "trailing_bytes", "3": None}
    assert set(stored(quick.workspace).values()) == set(bodies.values())
    crawl(server, replace(quick, refresh=True))
    assert {url[-5]: r for url, (_, r) in states(quick.workspace).items()} == flagged


def test_refused_bytes_are_kept_where_that_is_asked_for(
    server: Server, quick: DalleBlogConfig
) -> None:
    page, half = b"<html>no such image</html>", encode(photo(1), "PNG")[:500]

    async def behave(ask: Ask) -> bytes:
        if ask.path.endswith("_1.png"):
            return answer(page)
        if ask.path.endswith("_2.png"):
            return answer(half)
        if ask.path.endswith("_3.png"):
            return answer(jpeg_with_xmp(prohibiting()))
        return answer(png(ask.path))

    server.behaviour = behave
    crawl(server, quick)
    assert not (quick.workspace / "raw" / "refused").exists()
    keeping = replace(quick, workspace=quick.workspace / "keeping", keep_refused=True)
    crawl(server, keeping)
    files = sorted((keeping.workspace / "raw" / "refused").iterdir())
    assert [file.read_bytes() for file in files] == [page, half]
    assert [file.suffix for file in files] == [".bin", ".png"]
