"""What a web archive says of its captures: addresses, pages of its index, and what came back. Pure.

The two endpoints are those of the Internet Archive's Wayback Machine, which other archives have too:

    {base}/cdx/search/cdx?url=…           the index; described in the README of its CDX server,
                                          github.com/internetarchive/wayback, wayback-cdx-server
    {base}/web/{timestamp}id_/{original}  the bytes of one capture as they were recorded

The index files its rows under a key in lower case. Addresses that differ by case only, as base64
keys do, share that key, and the archive may give the capture of one for the other: the SHA-1 in the
index tells them apart.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any, NamedTuple
from urllib.parse import quote, quote_plus, unquote_to_bytes

from scrapers.fetch.response import Answer
from scrapers.fetch.verdict import Verdict

NOT_ARCHIVED = Verdict("missing", "not_archived", False, "neutral")
ROWS_PER_PAGE = 5_000

# `urlkey` must be among them, or the resume key leads elsewhere (issue 121 of the CDX server).
_FIELDS = ("urlkey", "timestamp", "original", "mimetype", "statuscode", "digest")
_REPLAY = re.compile(r"/web/\d{1,14}(?:[a-z]{2}_)?/(https?:.+)", re.S)
_TIMESTAMP = re.compile(r"\d{14}")
_ENCODED = re.compile(r"[A-Za-z0-9.*_+%-]+")
# Types of an image; object stores also serve images under types that say nothing.
_SILENT_TYPES = frozenset({"application/octet-stream", "binary/octet-stream", "unk", "-", ""})


class IndexRow(NamedTuple):
    """A row of the index. `digest` is the base32 of the body's SHA-1, None where it is not known."""

    timestamp: str
    original: str
    mimetype: str
    digest: str | None


class IndexPage(NamedTuple):
    """A page of the index; `resume_key` asks for the next one, None at the end."""

    rows: list[IndexRow]
    resume_key: str | None


class Capture(NamedTuple):
    """One capture of an image. `shared`: its key in the index is that of other addresses too."""

    address: str
    original: str
    digest: str | None
    shared: bool


def replay_address(base: str, row: IndexRow) -> str:
    """Where the bytes of a capture are, as they were recorded."""
    return f"{base}/web/{row.timestamp}id_/{row.original}"


def replayed_url(address: str | None) -> str | None:
    """The original URL in the address of a capture; None for any other address."""
    found = _REPLAY.search(address or "")
    return found.group(1) if found else None


def name_of(url: str) -> str:
    """What a URL names, in whichever way it is written: host and path without scheme and escapes.

    Archives record `http://host:80/a%3Db` and `https://host/a=b` as captures of one thing.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    host = host.lower().removesuffix(":80").removesuffix(":443")
    return host + slash + unquote_to_bytes(path).decode("latin-1")


def index_prefix(url_template: str) -> str:
    """The folder whose index answers for a caption: the section's, under `samples/`."""
    head, mark, rest = url_template.partition("/samples/")
    section, slash, _ = rest.partition("/")
    return f"{head}{mark}{section}/" if slash else url_template.rpartition("/")[0] + "/"


def index_query(
    base: str, url: str, *, prefix: bool, resume_key: str | None = None, collapse: str | None = None
) -> str:
    """The address of a page of the index: good captures of `url`, or of all that begins with it."""
    query = {
        "url": quote(url, safe=""),
        "matchType": "prefix" if prefix else "exact",
        "output": "json",
        "gzip": "false",
        "fl": ",".join(_FIELDS),
        "filter": "statuscode:200",
        "limit": str(ROWS_PER_PAGE),
        "showResumeKey": "true",
    }
    if collapse is not None:
        query["collapse"] = collapse
    if resume_key is not None:
        # It comes percent-encoded, as it wants to be sent.
        query["resumeKey"] = (
            resume_key if _ENCODED.fullmatch(resume_key) else quote_plus(resume_key)
        )
    return f"{base}/cdx/search/cdx?" + "&".join(f"{name}={value}" for name, value in query.items())


def parse_index(body: bytes) -> IndexPage:
    """Read a page of the index. Raises ValueError, in words, for anything else."""
    try:
        table: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = body[:40].decode("utf-8", "replace").strip()
        raise ValueError(f"no JSON but {len(body):,} bytes that begin {start!r}") from error
    if not isinstance(table, list) or not all(_is_row(row) for row in table):
        raise ValueError("JSON, but no table of captures")
    resume_key = None
    if len(table) >= 2 and table[-2] == [] and len(table[-1]) == 1:
        resume_key = table[-1][0]
        table = table[:-2]
    if not table:
        return IndexPage([], resume_key)
    header, *rows = table
    if not {"timestamp", "original"} <= set(header):
        raise ValueError(f"a table with the columns {', '.join(header)[:100]}")
    return IndexPage([_index_row(dict(zip(header, row, strict=False))) for row in rows], resume_key)


def _is_row(row: object) -> bool:
    return isinstance(row, list) and all(isinstance(field, str) for field in row)


def _index_row(fields: dict[str, str]) -> IndexRow:
    if not _TIMESTAMP.fullmatch(fields.get("timestamp", "")) or "original" not in fields:
        raise ValueError(f"a row that is no capture: {str(fields)[:100]}")
    digest = fields.get("digest", "")
    known = len(digest) == 32 and digest.isalnum()
    return IndexRow(
        fields["timestamp"],
        fields["original"],
        fields.get("mimetype", ""),
        digest if known else None,
    )


def may_be_image(mimetype: str) -> bool:
    """Whether a capture of this type is worth asking for."""
    return mimetype.startswith("image/") or mimetype.lower() in _SILENT_TYPES


def judge_capture(capture: Capture, verdict: Verdict, answer: Answer) -> Verdict:
    """Judge an answer of the archive; `verdict` is what would be said of it from a plain host."""
    if verdict.state == "missing":
        return NOT_ARCHIVED
    if answer.status != 200 or verdict.state == "opted_out":
        return verdict
    came = replayed_url(answer.final_url)
    if came is None or name_of(came) != name_of(capture.original):
        return Verdict("failed", "other_address", False, "neutral")
    if verdict.state == "done":
        if capture.shared and not _is_indexed(answer.body, capture):
            return Verdict("failed", "other_image", False, "neutral")
        return verdict
    # Bytes that are bad and just those of the index will not get better.
    return verdict._replace(
        retry=capture.digest is not None and not _is_indexed(answer.body, capture)
    )


def older_captures(captures: tuple[Capture, ...], verdict: Verdict) -> tuple[Capture, ...]:
    """What is left to try after `verdict` on the first capture."""
    if verdict.state in ("done", "opted_out") or not captures:
        return ()
    bad, older = captures[0], captures[1:]
    if verdict.state in ("truncated", "not_an_image") and not verdict.retry and bad.digest:
        return tuple(capture for capture in older if capture.digest != bad.digest)
    return older


def _is_indexed(body: bytes, capture: Capture) -> bool:
    digest = hashlib.sha1(body, usedforsecurity=False).digest()
    return base64.b32encode(digest).decode() == capture.digest
