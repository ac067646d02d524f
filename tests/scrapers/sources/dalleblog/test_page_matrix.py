"""What pages are like, one line each: what is asked for of the server, and the caption it is stored under.

In a page `@1` is the path of an image, `@2` that of another, `KEY` a base64 key of many signs, `QUOTED` the
same percent-encoded, and `HOST` the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from pipeline.core.errors import SourceError
from scrapers.crawl.export import discover_kept
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.urls import base64_key
from tests.helpers.crawls import Ask, Server, answer, png

CAPTION = "so’s the cat?>"
KEY = base64_key(CAPTION)
PARTS = {f"@{n}": f"/samples/things/{n:032x}_0.png" for n in range(1, 4)}
PARTS |= {"%1": f"{1:032x}", "KEY": KEY, "QUOTED": quote(KEY, safe="")}
LONG = "A" * 3_000

FIGURES = {
    "a figcaption in capitals": ("<figure><img src=@1><figcaption>An owl</figcaption></figure>", {"@1": "an owl"}),
    "two figures": ("<figure><img src=@1><figcaption>a photo of an owl</figcaption></figure><figure><img src=@2><figcaption>Blue sphere on a glass table</figcaption></figure>", {"@1": "a photo of an owl", "@2": "blue sphere on a glass table"}),
    "a figcaption of two words": ("<figure><img src=@1><figcaption>a photo of an owl</figcaption></figure><figure><img src=@2><figcaption>blue sphere</figcaption></figure>", {"@1": "a photo of an owl", "@2": "blue sphere"}),
    "a figcaption in Japanese": ("<figure><img src=@1><figcaption>青い球</figcaption></figure>", {"@1": "青い球"}),
    "a figcaption of digits": ("<figure><img src=@1><figcaption>1900</figcaption></figure>", {"@1": "1900"}),
    "a figcaption above": ("<figure><figcaption>An owl</figcaption><img src=@1></figure><figure><img src=@2></figure>", {"@1": "an owl"}),
    "a figure without a caption": ("<figure><img src=@1><figcaption>An owl</figcaption></figure><figure><img src=@2></figure>", {"@1": "an owl"}),
    "a figure by its role": ("<div role=figure><img src=@1><figcaption>An owl</figcaption></div><img src=@2>", {"@1": "an owl"}),
    "figures in a figure": ("<figure><figure><img src=@1><figcaption>an owl</figcaption></figure><img src=@2><figure><img src=@3></figure><figcaption>birds</figcaption></figure>", {"@1": "an owl", "@2": "birds"}),
    "an alt after a figure": ("<figure><img src=@1><figcaption>an owl on a mat</figcaption></figure><img src=@2 alt='a green cone on a floor'>", {"@1": "an owl on a mat", "@2": "a green cone on a floor"}),
    "an alt after a text": ("<p>an owl on a mat</p><img src=@1 alt='a green cone'>", {"@1": "a green cone"}),
    "an alt in a figure": ("<figure><img src=@1 alt='a green cone'><figcaption>an owl</figcaption></figure>", {"@1": "an owl"}),
    "a title": ("<p>an owl</p><img src=@1 title='a green cone'>", {"@1": "a green cone"}),
    "an aria-label": ("<p>an owl</p><div aria-label='a green cone' style='background: url(@1)'></div>", {"@1": "a green cone"}),
    "an aria-labelledby": ("<p id=l>a green cone</p><p>an owl</p><img src=@1 aria-labelledby=l>", {"@1": "a green cone"}),
    "a label in another figure": ("<figure><figcaption id=l>a cone</figcaption></figure><img src=@1 aria-labelledby=l><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "an alt that says nothing": ("<div><p>an owl</p><img src=@1 alt='AI-generated image 3'></div>", {"@1": "an owl"}),
    "an alt of several images": ("<img src=@1 alt='a cone'><img src=@2 alt='a cone'><figure><img src=@3><figcaption>a cat</figcaption></figure>", {"@3": "a cat"}),
    "a card": ("<div><img src=@1><b>An owl</b></div><div><img src=@2></div>", {"@1": "an owl"}),
    "a text beside its figure": ("<div><figure><img src=@1></figure><p>An owl</p></div>", {"@1": "an owl"}),
    "a figure on the way": ("<div><p>An owl</p><figure><img src=/x.png></figure><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "a figure of words on the way": ("<div><p>An owl</p><figure><blockquote>Words</blockquote></figure><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "a figure of words": ("<div><figure><blockquote>Words</blockquote></figure><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "a figcaption in no figure": ("<div><figcaption>An owl</figcaption><img src=@1></div><div><img src=@2></div>", {"@1": "an owl"}),
    "the text of no sample": ("<div><img src=/hero.png><p>a hero</p><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "the card of no sample": ("<div><div><img src=/hero.png><p>a hero</p></div><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "a figure of two captions": ("<figure><div><img src=@1><figcaption>an owl</figcaption></div><div><img src=@2><figcaption>a cat</figcaption></div></figure>", {"@1": "an owl", "@2": "a cat"}),
    "two captions and an image": ("<figure><figcaption>an owl</figcaption><img src=@1><figcaption>a cat</figcaption></figure><figure><img src=@2><figcaption>a fox</figcaption></figure>", {"@2": "a fox"}),
    "a text and two images": ("<div><p>a hero</p><img src=@1><img src=@2></div><figure><img src=@3><figcaption>a cat</figcaption></figure>", {"@3": "a cat"}),
    "a heading": ("<div><h2>Our favourites</h2><img src=@1></div><figure><img src=@2><figcaption>a cat</figcaption></figure>", {"@2": "a cat"}),
    "a choice": ("<div><p>an owl of <select><option>tin<option selected>Gold</select></p><img src=@1></div>", {"@1": "an owl of gold"}),
    "a picture": ("<picture><source srcset='@1 1x'><img src='data:,' alt='a green cone'></picture>", {"@1": "a green cone"}),
    "data in a script": ('<script>x = [{"caption": "An owl", "src": "@1"}, {"src": "@2"}]</script>', {"@1": "an owl"}),
    "a lone surrogate in data": (r'<script>x = {"caption": "an owl \ud800", "src": "@1"}</script>', {"@1": "an owl \ufffd"}),
    "NULs in data": (r'<script>x = {"caption": "an owl \u00000\u0000", "src": "@1"}</script>', {"@1": "an owl \ufffd0\ufffd"}),
    "control characters": ("<figure><img src=@1><figcaption>an \x1b[31mowl</figcaption></figure>", {"@1": "an \x1b[31mowl"}),
    "deep data": ('<script>x = {"a": ' + "[" * 5_000 + "</script><figure><img src=@1><figcaption>an owl</figcaption></figure>", {"@1": "an owl"}),
}  # fmt: skip
URLS = {
    "base64 as it is": ("<img src=/samples/things/KEY_0.png>", {"/samples/things/KEY_0.png": CAPTION}),
    "base64 percent-encoded": ("<img src=/samples/things/QUOTED_0.png>", {"/samples/things/QUOTED_0.png": CAPTION}),
    "a signed query": ("<img src='@1?sv=1&amp;sig=a%2Bb%3D' alt='an owl'>", {"@1?sv=1&sig=a%2Bb%3D": "an owl"}),
    "a query for each image": ("<img src='@1?sig=0' alt='an owl'><img src='/samples/things/%1_1.png?sig=1' alt='an owl'>", {"@1?sig=0": "an owl", "/samples/things/%1_1.png?sig=1": "an owl"}),
    "a space": ("<img src='/a b@1' alt='an owl'>", {"/a%20b@1": "an owl"}),
    "a space that is encoded": ("<img src='/a%20b@1' alt='an owl'>", {"/a%20b@1": "an owl"}),
    "letters beyond ASCII": ("<img src='/bücher@1' alt='an owl'>", {"/b%C3%BCcher@1": "an owl"}),
    "braces": ("<img src='/{rank}@1' alt='an owl'>", {"/%7Brank%7D@1": "an owl"}),
    "HTTP in capitals": ("<img src=HTTP://HOST@1 alt='an owl'>", {"@1": "an owl"}),
    "a host without a scheme": ("<img src=//HOST@1 alt='an owl'>", {"@1": "an owl"}),
    "user and password": ("<img src=http://us%40er:s3cret@HOST@1 alt='an owl'>", {"@1": "an owl"}),
    "a base": ("<base href=/mirror/x><img src=.@1 alt='an owl'>", {"/mirror@1": "an owl"}),
    "dots": ("<img src=/a/../b/.@1 alt='an owl'>", {"/b@1": "an owl"}),
    "backslashes": (r"<img src='\b@1' alt='an owl'>", {"/b@1": "an owl"}),
    "blanks around": ("<img src=' @1\n' alt='an owl'>", {"@1": "an owl"}),
    "a fragment": ("<img src=@1#x alt='an owl'>", {"@1": "an owl"}),
    "several sizes": ("<img alt='an owl' srcset='@1?w=64 64w, @1?w=256 256w'>", {"@1?w=256": "an owl"}),
    "an image resizer": ("<img alt='an owl' src='/_next/image?url=%2Fsamples%2Fthings%2F%1_0.png&amp;w=64'>", {"@1": "an owl"}),
    "a lazy image": ("<img alt='an owl' src='data:image/gif;base64,R0lGOD' data-src=@1>", {"@1": "an owl"}),
    "a host of 64 letters": ("<img src=http://" + "a" * 64 + "@1 alt='an owl'><img src=@2 alt='a cat'>", {"@2": "a cat"}),
    "a port that is none": ("<img src=http://x:99999@1 alt='an owl'><img src=@2 alt='a cat'>", {"@2": "a cat"}),
    "an image in the page": (f"<img src='data:image/png;base64,{LONG}' alt='an owl'><img src=@2 alt='a cat'>", {"@2": "a cat"}),
    "a URL of 10,000 letters": (f"<img src='/{LONG * 4}@1' alt='an owl'><img src=@2 alt='a cat'>", {"@2": "a cat"}),
}  # fmt: skip
LEFT_OUT = {
    "a figure without a caption": "Section 'things': 1 images have no caption: left out.",
    "a text and two images": "Section 'things': 2 images have no caption: left out.",
    "a host of 64 letters": "1 images have a URL that can't be read or requested: left out.",
    "an image in the page": "1 images are embedded in the page (data:) and have no URL: left out.",
}


def write(text: str, server: Server) -> str:
    for name, part in {**PARTS, "HOST": server.url.removeprefix("http://")}.items():
        text = text.replace(name, part)
    return text


def serve(server: Server, page: bytes, **headers: Any) -> None:
    """Serve a page with these headers, and images of rank 0 and 1."""

    async def behave(ask: Ask) -> bytes:
        path = ask.path.partition("?")[0]
        if path == "/blog/":
            return answer(page, **headers)
        return answer(png(ask.path)) if path.endswith(("_0.png", "_1.png")) else answer(b"", 404)

    server.behaviour = behave


def stored(workspace: Path) -> dict[str, str]:
    """Caption by path and query of the images that came."""
    ledger = Ledger(workspace / "raw" / "ledger.sqlite")
    rows = ledger.query("SELECT url, caption FROM items WHERE state = 'done'")
    found = {"/" + str(url).split("/", 3)[3]: str(caption) for url, caption in rows}
    ledger.close()
    return found


@pytest.fixture
def config(quick: DalleBlogConfig, server: Server) -> DalleBlogConfig:
    return replace(quick, page_url=f"{server.url}/blog/", sections=("things",), attempts=1)


def check(found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Rank 1 comes with rank 0, whose URL gives its own."""
    beside = {path: said for path, said in found.items() if path not in expected}
    assert {path: said for path, said in found.items() if path in expected} == expected
    assert set(beside) <= {path.replace("_0.png", "_1.png") for path in expected}


@pytest.mark.parametrize("case", [*FIGURES, *URLS])
def test_an_image_is_asked_for_as_written_under_its_own_caption(
    case: str, config: DalleBlogConfig, server: Server
) -> None:
    page, expected = (FIGURES | URLS)[case]
    serve(server, write(page, server).encode())
    report = scrape(config)
    check(stored(config.workspace), {write(url, server): said for url, said in expected.items()})
    assert {write(url, server) for url in expected} <= {path for path, _ in server.asked}
    if case in LEFT_OUT:
        assert LEFT_OUT[case] in report.details["differences"]
    for file in {*(config.workspace / "raw").rglob("*.*")} - {config.workspace / "raw/page.html"}:
        assert b"s3cret" not in file.read_bytes()


JAPANESE = "<figure><img src=@1><figcaption>青い球</figcaption></figure>"
FRENCH = "<figure><img src=@1><figcaption>café’s owl</figcaption></figure>"
CHARSETS = {
    "UTF-8": (JAPANESE, "utf-8", None, "青い球"),
    "UTF-16 with a mark": (JAPANESE, "utf-16", None, "青い球"),
    "UTF-16 without one": (JAPANESE, "utf-16-be", None, "青い球"),
    "Shift_JIS by its meta": ("<meta charset=Shift_JIS>" + JAPANESE, "cp932", None, "青い球"),
    "windows-1252 that says nothing": (FRENCH, "cp1252", None, "café’s owl"),
    "Shift_JIS by its header": (JAPANESE, "cp932", "text/html; charset=Shift_JIS", "青い球"),
    "ISO-8859-1 by its header": (FRENCH, "cp1252", "text/html; charset=ISO-8859-1", "café’s owl"),
    "UTF-8 under the name of latin1": (FRENCH, "utf-8", "text/html; charset=latin1", "café’s owl"),
}


@pytest.mark.parametrize("case", CHARSETS)
def test_a_page_is_read_in_its_charset_now_and_from_the_kept_copy(
    case: str, config: DalleBlogConfig, server: Server
) -> None:
    page, charset, header, caption = CHARSETS[case]
    serve(
        server, write(page, server).encode(charset), **({"Content_Type": header} if header else {})
    )
    scrape(config)
    check(stored(config.workspace), {PARTS["@1"]: caption})
    assert [plan.forms[0].caption for plan in discover_kept(config).plans] == [caption]
    assert server.hits["/blog/"] == 1


def test_relative_urls_hang_on_where_a_redirect_of_the_page_ended(
    config: DalleBlogConfig, server: Server
) -> None:
    page = write("<img src=.@1 alt='an owl'>", server).encode()

    async def behave(ask: Ask) -> bytes:
        if ask.path == "/blog/":
            return answer(status=302, Location="/elsewhere/post/")
        return answer(page if ask.path == "/elsewhere/post/" else png(ask.path))

    server.behaviour = behave
    scrape(replace(config, limit=1))
    assert write("/elsewhere/post@1", server) in stored(config.workspace)
    again = replace(config, limit=1, list_urls=True, out=config.workspace / "urls.parquet")
    assert scrape(again).counts["urls"] == 32
    assert server.hits["/blog/"] == 1


def test_a_page_of_more_than_sixteen_megabytes_is_refused_with_the_number(
    config: DalleBlogConfig, server: Server
) -> None:
    serve(server, b"<p>" + b"x" * (16 * 2**20))
    with pytest.raises(SourceError, match="larger than the limit of 16,777,216 bytes"):
        scrape(config)
