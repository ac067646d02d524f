"""The page asked for again: what is new on it is fetched, what has changed is reported, nothing is lost."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from pipeline.core.errors import SourceError
from pipeline.demo.replica.config import PageDesign, ReplicaConfig
from pipeline.demo.replica.server import Replica
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.config import DalleBlogConfig
from tests.helpers.crawls import stored

# Keys of this section can't be computed: the page alone says which captions there are.
SECTION = "text_rendering"


def serve(config: DalleBlogConfig, shown: int, *more: str, page_status: int = 200) -> Replica:
    return Replica(
        ReplicaConfig(
            sections=(SECTION, *more), shown_captions=shown, size=16, page_status=page_status
        )
    )


@pytest.fixture
def config(tmp_path: Path) -> DalleBlogConfig:
    return DalleBlogConfig(
        workspace=tmp_path / "data",
        page_url="http://dalleblog.localhost/blog/dall-e/",
        sections=(SECTION,),
        attempts=2,
        backoff_s=0.01,
    )


def at(config: DalleBlogConfig, replica: Replica) -> DalleBlogConfig:
    return replace(config, connect_to=replica.url.removeprefix("http://").strip("/"))


def test_an_update_fetches_what_is_new_on_the_page_and_asks_for_nothing_else(
    config: DalleBlogConfig,
) -> None:
    with serve(config, 11) as replica:
        first = scrape(at(config, replica))
        assert first.details["page"] == {
            "changed": False, "sections_added": [], "sections_removed": [], "captions": {}
        }  # fmt: skip
        before = first.counts["done"]
        asked = sum(replica.requests.values())
        same = scrape(replace(at(config, replica), update=True))
        assert same.outcome == "unchanged"
        assert sum(replica.requests.values()) == asked + 3  # robots.txt, the TDMRep file, the page
    with serve(config, 12) as replica:
        more = scrape(replace(at(config, replica), update=True))
        assert more.outcome == "done"
        assert more.counts["done"] == before + 32
        assert more.details["page"]["captions"] == {SECTION: [11, 12]}
        assert replica.statuses[200] == 32 + 2
    with serve(config, 12) as replica:
        assert scrape(at(config, replica)).outcome == "unchanged"
        assert not replica.requests


def test_a_plan_names_the_sections_and_what_became_of_them(
    config: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, sections=(), plan=True)
    with serve(config, 11) as replica:
        first = scrape(at(config, replica))
        assert first.details["sections"][SECTION] == {"captions": 11}
        assert first.counts["sections"] == len(first.details["sections"]) > 1
        assert not first.details["page"]["changed"]
        assert not [path for path in replica.requests if path.endswith(".png")]
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert not scrape(at(config, replica)).details["page"]["changed"]
        assert "has changed" not in caplog.text
    with serve(config, 10, "emojis") as replica:
        second = scrape(at(config, replica)).details["page"]
    assert second["changed"]
    assert second["sections_added"] == ["emojis"]
    assert second["captions"][SECTION] == [11, 10]
    assert "The page has changed: new sections emojis" in caplog.text
    with serve(config, 10) as replica:
        third = scrape(at(config, replica)).details["page"]
    assert third["sections_removed"] == ["emojis"]


def test_a_section_that_left_the_page_keeps_its_images(config: DalleBlogConfig) -> None:
    with serve(config, 11, "emojis") as replica:
        first = scrape(at(config, replica))
    with Replica(ReplicaConfig(sections=("emojis",), size=16)) as replica:
        report = scrape(replace(at(config, replica), update=True))
    assert report.details["page"]["sections_removed"] == [SECTION]
    assert len(stored(config.workspace)) == first.counts["done"]


def test_a_page_that_fails_leaves_everything_as_it_was(config: DalleBlogConfig) -> None:
    with serve(config, 11) as replica:
        scrape(at(config, replica))
    files = {path: path.read_bytes() for path in (config.workspace / "raw").rglob("*.*")}
    for how in ({"update": True}, {"refresh": True}, {"plan": True}):
        with serve(config, 11, page_status=503) as replica, pytest.raises(SourceError):
            scrape(replace(at(config, replica), **how))  # type: ignore[arg-type]
    assert {path: path.read_bytes() for path in (config.workspace / "raw").rglob("*.*")} == files


@pytest.mark.parametrize("design", get_args(PageDesign))
def test_a_healthy_page_warns_of_nothing(
    design: PageDesign, config: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, sections=(), plan=True)
    with Replica(ReplicaConfig(size=16, design=design)) as replica:
        report = scrape(at(config, replica))
    assert report.counts["sections"] == len(load_catalogue().sections)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(
    ("chosen", "sections"),
    [
        ({"sections": ("emojis",)}, {"emojis"}),
        ({"sections": ("emojis",), "limit": 3}, {"emojis"}),
        (
            {"limit": 30, "sections": ("cross_sections", "emojis", "countries")},
            {"cross_sections", "emojis"},
        ),
        ({"captions": "emojis\ta happy owl\n"}, {"emojis"}),
    ],
)
def test_a_plan_speaks_of_what_was_asked_for_alone(
    chosen: dict[str, Any], sections: set[str], config: DalleBlogConfig, tmp_path: Path
) -> None:
    if "captions" in chosen:
        (tmp_path / "captions.txt").write_text(chosen["captions"])
        chosen = {"captions": tmp_path / "captions.txt"}
    page = b"""<p>a cross-section view of a <select><option>walnut<option>geode</select></p>
        <p>an emoji of <select><option>a fox</select></p>
        <img src="/samples/emojis/YW4gZW1vamkgb2YgYSBmb3g=_0.png">
        <p>a photo of the food of china</p><p>a photo of the flag of china</p>
        <img src="/samples/countries/7777777_0.png">"""
    file = tmp_path / "page.html"
    file.write_bytes(page)
    config = replace(replace(config, sections=(), page=file, plan=True), **chosen)
    report = scrape(config)
    assert set(report.details["sections"]) == sections
    every = ("emojis", "cross_sections", "countries", "clip")
    assert {name for name in every if name in str(report.details)} == sections


def test_fewer_options_than_before_are_no_change_of_the_page(
    config: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    few = replace(config, sections=("emojis",), limit=3, plan=True)
    with serve(config, 11, "emojis") as replica:
        scrape(at(few, replica))
        for more in ({"limit": None}, {"sections": ()}, {"sections": (), "limit": None}):
            config = replace(few, **more)
            assert not scrape(at(config, replica)).details["page"]["changed"]
        assert not scrape(replace(at(few, replica), no_page=True)).details["page"]["changed"]
        assert not scrape(at(few, replica)).details["page"]["changed"]
    assert "has changed" not in caplog.text
    with serve(config, 12, "emojis") as replica:
        assert not scrape(at(few, replica)).details["page"]["changed"]
        every = scrape(at(replace(few, sections=(), limit=None), replica))
    assert every.details["page"]["captions"] == {SECTION: [11, 12]}


def test_user_and_password_of_the_page_are_neither_kept_nor_printed(
    config: DalleBlogConfig, caplog: pytest.LogCaptureFixture
) -> None:
    config = replace(config, page_url="http://me:s3cret@dalleblog.localhost/blog/dall-e/")
    with serve(config, 2) as replica:
        config = at(
            replace(config, cdn_url=f"http://me:s3cret@{replica.url[7:].strip('/')}/dall-e/v2"),
            replica,
        )
        scrape(config)
        assert scrape(config).outcome == "unchanged"
    for file in (config.workspace / "raw").rglob("*.*"):
        assert b"s3cret" not in file.read_bytes()
    with serve(config, 2, page_status=404) as replica, pytest.raises(SourceError) as raised:
        scrape(replace(at(config, replica), update=True))
    assert "s3cret" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    "meta",
    ['<meta name="robots" content="noai, noimageai">', '<meta name="tdm-reservation" content="1">'],
)
def test_a_saved_page_that_refuses_its_use_is_not_used(
    meta: str, config: DalleBlogConfig, tmp_path: Path
) -> None:
    with serve(config, 11) as replica:
        scrape(at(config, replica))
        page = (config.workspace / "raw" / "page.html").read_text()
        file = tmp_path / "saved.html"
        file.write_text(page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">{meta}'))
        saved = replace(at(config, replica), page=file, workspace=tmp_path / "other")
        asked = sum(replica.requests.values())
        for again in (saved, replace(saved, list_urls=True), replace(saved, plan=True)):
            with pytest.raises(
                SourceError, match=r"saved\.html opts out of any use of its captions"
            ):
                scrape(again)
        assert sum(replica.requests.values()) == asked
        assert scrape(replace(saved, ignore_opt_out=True)).counts["done"] > 0
