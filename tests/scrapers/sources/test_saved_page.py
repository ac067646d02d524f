"""A page as it was saved: plain, gzipped, MHTML, complete, or something else altogether."""

from __future__ import annotations

import base64
import gzip
import quopri
from collections.abc import Callable

import pytest

from pipeline.core.errors import SourceError
from scrapers.source import StartPage
from scrapers.sources.saved_page import MAX_PAGE_BYTES, open_page

HTML = "<p>a photo of ‘café’</p>"
ELSEWHERE = "https://blog.example/dall-e/"


def opened(body: bytes) -> StartPage:
    return open_page(
        StartPage(body=body, url="https://named.example/"), name="The page x", is_saved=True
    )


def mhtml(part: bytes, encoding: str, content_type: str = "text/html; charset=utf-8") -> bytes:
    """What Chrome writes."""
    return b"\r\n".join(
        (
            b"From: <Saved by Blink>",
            f"Snapshot-Content-Location: {ELSEWHERE}".encode(),
            b"Subject: =?utf-8?Q?DALL=C2=B7E?=",
            b"MIME-Version: 1.0",
            b"Content-Type: multipart/related;",
            b'\ttype="text/html";',
            b'\tboundary="----MultipartBoundary--abc----"',
            b"",
            b"",
            b"------MultipartBoundary--abc----",
            f"Content-Type: {content_type}".encode(),
            f"Content-Transfer-Encoding: {encoding}".encode(),
            f"Content-Location: {ELSEWHERE}".encode(),
            b"",
            part,
            b"------MultipartBoundary--abc----",
            b"Content-Type: image/png",
            b"Content-Transfer-Encoding: base64",
            b"",
            b"AAAA",
            b"------MultipartBoundary--abc------",
            b"",
        )
    )


@pytest.mark.parametrize(
    ("encoding", "write"),
    [
        ("quoted-printable", lambda body: quopri.encodestring(body)),
        ("base64", lambda body: base64.encodebytes(body)),
        ("8bit", lambda body: body),
        ("binary", lambda body: body),
    ],
)
def test_the_page_of_an_mhtml_archive_is_read_with_where_it_came_from(
    encoding: str, write: Callable[[bytes], bytes]
) -> None:
    page = opened(mhtml(write(HTML.encode()), encoding))
    assert page.body.decode().strip() == HTML
    assert (page.url, page.content_type) == (ELSEWHERE, "text/html; charset=utf-8")
    assert opened(gzip.compress(mhtml(write(HTML.encode()), encoding))).body == page.body


@pytest.mark.parametrize(
    ("location", "url"),
    [
        (b"Content-Location: http://a.example/", "http://a.example/"),
        (b"Content-Location: cid:frame-1@mhtml.blink", "https://named.example/"),
        (b"Content-Location: file:///home/me/page.html", "https://named.example/"),
        (b"X-None: x", ELSEWHERE),  # the archive's own URL
    ],
)
def test_a_page_without_a_web_url_in_its_archive_has_the_one_it_was_named_by(
    location: bytes, url: str
) -> None:
    own = f"\nContent-Location: {ELSEWHERE}".encode()
    assert opened(mhtml(HTML.encode(), "8bit").replace(own, b"\n" + location)).url == url


def test_an_archive_without_any_url_has_the_one_it_was_named_by() -> None:
    body = mhtml(HTML.encode(), "8bit").replace(b"Content-Location:", b"X-None:")
    assert opened(body).url == "https://named.example/"


@pytest.mark.parametrize("behind", [b"", b"\0" * 512, b"junk", gzip.compress(b"<i>", mtime=0)])
def test_a_gzipped_page_is_unpacked_whatever_stands_behind_it(behind: bytes) -> None:
    body = opened(gzip.compress(HTML.encode()) + behind).body.decode()
    assert body.removesuffix("<i>") == HTML


def test_a_complete_page_says_where_it_was_saved_from() -> None:
    body = f"<!DOCTYPE html>\n<!-- saved from url=(0028){ELSEWHERE} -->\n{HTML}".encode()
    assert opened(body).url == ELSEWHERE
    asked = StartPage(body=body, url="https://mirror.example/")
    assert open_page(asked, name="x", is_saved=False).url == "https://mirror.example/"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"%PDF-1.7", "The page x is a PDF, not HTML"),
        (b"PK\x03\x04", "is a zip archive"),
        (b"bplist00", "is a Safari web archive"),
        (b"WARC/1.1\r\n", "is a WARC archive"),
        (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
        (b"\x28\xb5\x2f\xfd", "is compressed with zstd"),
        (gzip.compress(HTML.encode(), mtime=0)[:-9], "is gzipped and ends too early"),
        (b"\x1f\x8b" + b"\xff" * 20, "is gzipped and damaged"),
        (mhtml(b"x", "8bit", "text/plain"), "is an MHTML archive with no HTML in it"),
        (b"<" * (MAX_PAGE_BYTES + 1), "has 16,777,217 bytes of HTML; at most 16,777,216 are read"),
        (gzip.compress(b" " * (20 << 20)), "has 20,971,520 bytes of HTML"),
        # Nothing is unpacked beyond 128 MiB.
        (gzip.compress(bytes(128 << 20), 1) + gzip.compress(bytes(1 << 20)), "134,217,728 bytes"),
        (gzip.compress(bytes(128 << 20), 1)[:-8], "has 134,217,728 bytes of HTML"),
        (gzip.compress(bytes((128 << 20) - 1), 1)[:-8], "is gzipped and ends too early"),
    ],
    ids=range(14),
)
def test_what_is_no_page_is_named(body: bytes, said: str) -> None:
    with pytest.raises(SourceError, match=said):
        opened(body)
