"""What a page's own <meta> elements refuse."""

from __future__ import annotations

import pytest

from scrapers.fetch.charset import decode_page
from scrapers.fetch.optouts.page import meta_elements, page_refusal
from scrapers.fetch.optouts.signals import Refusal
from scrapers.sources.dalleblog.page_items import read_items

URL = "https://example.org/page"


def refusal_of(page: bytes) -> Refusal | None:
    meta = read_items(decode_page(page, None), base_url=URL, sections={}).meta
    return page_refusal(meta, agent="dalle-pipeline", url=URL)


def refused(html: str) -> str | None:
    found = refusal_of(html.encode())
    if found is None:
        return None
    assert (found.signal, found.reason, found.where) == ("page-meta", "page_meta", URL)
    return found.text


def test_the_meta_elements_of_a_page_that_is_no_source_are_read() -> None:
    page = '<p>x</p><META NAME="Robots" CONTENT="NoAI"/><meta name=tdm-policy><meta charset=utf-8>'
    assert meta_elements(page) == [("robots", "NoAI"), ("tdm-policy", "")]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ('<meta name="robots" content="noai, noimageai">', 'name="robots"'),
        ('<META NAME="Robots" CONTENT="NoAI">', 'content="NoAI"'),
        ("<meta content=noimageai name=robots>", "noimageai"),
        ('<meta name="robots" content="nofollow"><meta name="robots" content="noai">', "noai"),
        ('<meta name="robots" content="none"/>', "none"),
        ('<meta name="dalle-pipeline" content="noindex">', "dalle-pipeline"),
        ('<meta name="tdm-reservation" content="1">', "tdm-reservation"),
        ('<meta name="tdm-reservation" content=" 1 "><meta name="tdm-policy" content="/p">', "/p"),
    ],
)
def test_refusals(html: str, text: str) -> None:
    assert text in str(refused(f"<!DOCTYPE html><html><head>{html}</head><body><p>x</body></html>"))


@pytest.mark.parametrize(
    "html",
    [
        "",
        '<meta name="robots" content="index, follow, max-image-preview:large">',
        '<meta name="otherbot" content="noai">',
        '<meta name="tdm-reservation" content="0">',
        '<meta name="tdm-policy" content="/p">',
        '<meta property="robots" content="noai">',
        '<!-- <meta name="robots" content="noai"> -->',
        '<script>document.write(\'<meta name="robots" content="noai">\')</script>',
        '<p>&lt;meta name="robots" content="noai"&gt;</p>',
        "<meta name=robots>",
        '<meta name="description" content="noai">',
    ],
)
def test_what_refuses_nothing(html: str) -> None:
    assert refused(html) is None


def test_a_page_in_two_bytes_a_letter_is_read() -> None:
    page = '<meta name="robots" content="noai">'.encode("utf-16")
    assert refusal_of(page) is not None
