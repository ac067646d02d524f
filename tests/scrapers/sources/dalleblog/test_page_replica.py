"""Reading the replica's page, in each of its designs, gives what the replica holds."""

from __future__ import annotations

from typing import get_args

import pytest

from pipeline.demo.replica.config import PageDesign, ReplicaConfig
from pipeline.demo.replica.holdings import Holdings
from pipeline.demo.replica.html import render_page
from scrapers.source import StartPage
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.page import PageContent, read_page
from scrapers.sources.dalleblog.source import DalleBlogSource

PAGE = "http://127.0.0.1:8000/blog/dall-e/"
CDN = "http://127.0.0.1:8000/dall-e/v2"
SHOWN = 64
DESIGNS: tuple[PageDesign, ...] = get_args(PageDesign)


def page_of(design: PageDesign) -> tuple[Holdings, bytes]:
    holdings = Holdings(ReplicaConfig(design=design, shown_captions=SHOWN))
    cdn = "/dall-e/v2" if design == "plain" else CDN
    return holdings, render_page(holdings, design=design, cdn=cdn).encode()


def read(body: bytes) -> PageContent:
    return read_page(body, base_url=PAGE, catalogue=load_catalogue())


@pytest.mark.parametrize("design", DESIGNS)
def test_every_key_that_the_page_shows_is_tied_to_its_own_caption(design: PageDesign) -> None:
    holdings, body = page_of(design)
    found = {
        (shown.section.name, given.address.key): given.caption
        for shown in read(body).sections
        for given in shown.section.given
    }
    held = {
        (section.name, entry.key): entry.caption
        for section in holdings.sections
        if section.key != "base64"
        for entry in holdings.shown(section.name)
    }
    assert {place: found[place] for place in held if place in found} == {
        place: caption for place, caption in held.items() if place in found
    }
    assert sorted(set(held) - set(found)) == []


@pytest.mark.parametrize("design", DESIGNS)
def test_the_page_is_read_without_leaving_anything_out(design: PageDesign) -> None:
    content = read(page_of(design)[1])
    assert content.notes == ()
    assert content.cdn == CDN
    assert {s.section.name for s in content.sections} >= {s.name for s in load_catalogue().sections}
    primed = {s.name for s in load_catalogue().sections if s.image_prompt}
    assert set(content.image_prompts) == (set() if design == "plain" else primed)


@pytest.mark.parametrize("design", DESIGNS)
def test_the_plans_hold_every_caption_that_the_replica_lets_be_known(design: PageDesign) -> None:
    holdings, body = page_of(design)
    source = DalleBlogSource(DalleBlogConfig(page_url=PAGE))
    page = StartPage(body=body, url=PAGE)
    planned = {form.url_template for plan in source.discover(page).plans for form in plan.forms}
    missing = [
        entry.caption
        for section in holdings.sections
        for entry in holdings.shown(section.name)
        if f"{CDN}/samples/{section.name}/{entry.key}_{{rank}}.png" not in planned
    ]
    assert missing == []
