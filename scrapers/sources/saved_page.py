"""A page as it was saved or sent → its HTML: plain, gzipped, or the first part of an MHTML archive.

A page saved as "complete" is plain HTML with a comment that names its URL. Anything else is refused in one
sentence.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import replace
from email.message import Message
from email.parser import BytesHeaderParser

from pipeline.core.errors import SourceError
from scrapers.source import StartPage

MAX_PAGE_BYTES = 16 * 2**20
# An MHTML archive holds the page's images, too.
MAX_ARCHIVE_BYTES = 128 * 2**20

# `<!-- saved from url=(0031)https://openai.com/blog/dall-e/ -->`
_SAVED_FROM = re.compile(rb"<!--\s*saved from url=\(\d+\)(https?://\S+)", re.IGNORECASE)
_HEADER = re.compile(rb"(?:[!-9;-~]+:[^\r\n]*\r?\n(?:[ \t][^\r\n]*\r?\n)*)+\r?\n")
_GZIP = b"\x1f\x8b"
_MAX_MEMBERS = 16
_KINDS = (
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a zip archive (.zip, .maff, .docx, .epub)"),
    (b"bplist00", "a Safari web archive"),
    (b"WARC/", "a WARC archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"RIFF", "a WebP image or another RIFF file"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"{\\rtf", "an RTF document"),
    (b"\xd0\xcf\x11\xe0", "an old Office document"),
)


def open_page(page: StartPage, *, name: str, is_saved: bool) -> StartPage:
    """The HTML in what was saved or sent; `name` is its name in messages.

    A page that `is_saved` may name its own URL, on which its relative URLs depend.

    Raises SourceError for what is not a page, and for a page of more than 16 MiB.
    """
    page = replace(page, body=_gunzip(page.body, name))
    for mark, kind in _KINDS:
        if page.body.startswith(mark):
            raise SourceError(f"{name} is {kind}, not HTML. {_ADVICE}")
    if (archived := _page_in_archive(page, name)) is not None:
        page = archived
    if len(page.body) > MAX_PAGE_BYTES:
        raise SourceError(
            f"{name} has {len(page.body):,} bytes of HTML; at most {MAX_PAGE_BYTES:,} are read. Is it "
            "the right page? Save it from a browser and pass --page FILE, or leave it out (--no-page)."
        )
    found = _SAVED_FROM.search(page.body[:4_096]) if is_saved else None
    return page if found is None else replace(page, url=found[1].decode("ascii", "replace"))


_ADVICE = "Save the page from a browser as HTML or .mhtml and pass it with --page FILE."


def _gunzip(body: bytes, name: str) -> bytes:
    """The content of a gzipped file, all its members; anything after them is dropped."""
    pieces: list[bytes] = []
    room, rest = MAX_ARCHIVE_BYTES, body
    while rest.startswith(_GZIP) and room > 0 and len(pieces) < _MAX_MEMBERS:
        inflater = zlib.decompressobj(31)
        try:
            pieces.append(inflater.decompress(rest, room))
        except zlib.error as error:
            raise SourceError(
                f"{name} is gzipped and damaged ({error}). Fetch it again."
            ) from error
        room -= len(pieces[-1])
        if not inflater.eof and room > 0:
            raise SourceError(f"{name} is gzipped and ends too early. Fetch it again.")
        rest = inflater.unused_data
    return b"".join(pieces) if pieces else body


def _page_in_archive(page: StartPage, name: str) -> StartPage | None:
    """The first HTML part of an MHTML archive, with its URL; None if this is not MHTML."""
    head = _HEADER.match(page.body.lstrip()[:65_536])
    message = BytesHeaderParser().parsebytes(head[0]) if head else Message()
    boundary = message.get_boundary()
    if head is None or boundary is None or message.get_content_maintype() != "multipart":
        return None
    mark = b"--" + boundary.encode("utf-8", "surrogateescape")
    start = page.body.find(mark)
    while start >= 0:
        end = page.body.find(mark, start + len(mark))
        part = page.body[start + len(mark) : end if end >= 0 else len(page.body)].lstrip(b"\r\n")
        if (found := _html_of(part)) is not None:
            body, header = found
            place = header.get("Content-Location") or message.get("Snapshot-Content-Location")
            url = place if place and place.startswith(("http:", "https:")) else page.url
            return StartPage(body=body, url=url, content_type=header.get("Content-Type"))
        start = end
    raise SourceError(f"{name} is an MHTML archive with no HTML in it. {_ADVICE}")


def _html_of(part: bytes) -> tuple[bytes, Message] | None:
    head = _HEADER.match(part)
    header = BytesHeaderParser().parsebytes(head[0]) if head else Message()
    if head is None or header.get_content_type() not in ("text/html", "application/xhtml+xml"):
        return None
    header.set_payload(part[head.end() :].decode("ascii", "surrogateescape"))
    body = header.get_payload(decode=True)
    return (body if isinstance(body, bytes) else b""), header
