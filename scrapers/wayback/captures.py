"""The captures of a web archive: their URLs, their names, and the verdict on a response. Pure.

    {replay}{timestamp}id_/{original}  the bytes of one capture as they were recorded

An index keys its rows in lower case. URLs that differ by case only, as base64 keys do, share a key, and the
archive may return the capture of one for the other: the SHA-1 in the index tells them apart. It is that of
the body as it was sent: if that was encoded, the SHA-1 can't be compared with ours.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from scrapers.fetch.response import Response
from scrapers.fetch.verdict import Verdict
from scrapers.rawstore.ledger_rows import Known
from scrapers.wayback.query import IndexRow

NOT_ARCHIVED = Verdict("missing", "not_archived", False, "neutral")
# The index may not have listed everything that it has there.
NOT_LISTED = Verdict("missing", "not_listed", False, "neutral")
# What the archive has and doesn't return: its administrator has excluded it, or its file is gone.
EXCLUDED = Verdict("missing", "archive_excluded", False, "neutral")
LOST = Verdict("missing", "archive_lost", False, "neutral")
# Reasons for which only an archive lacks something.
ARCHIVE_REASONS = frozenset(
    verdict.reason for verdict in (NOT_ARCHIVED, NOT_LISTED, EXCLUDED, LOST)
)

_REPLAY = re.compile(r"/(\d{4,14})(?:[a-z]{2}_)?/(https?:.+)", re.S)
# Types of an image; object stores also serve images under unspecific types, and a revisit has the type of
# what it repeats.
_SILENT_TYPES = frozenset(
    {"application/octet-stream", "binary/octet-stream", "unk", "-", "", "warc/revisit"}
)
# If these changed a recorded body, it is not the one whose digest is known.
_ENCODINGS = (
    "content-encoding",
    "x-archive-orig-content-encoding",
    "x-archive-orig-transfer-encoding",
)


class Capture(NamedTuple):
    """One capture of an image. `shared`: other URLs have the same key in the index."""

    address: str
    original: str
    digest: str | None
    shared: bool


def replay_address(replay: str, row: IndexRow) -> str:
    """The URL of a capture's bytes as recorded; `replay` is the part before the time."""
    return f"{replay}{row.timestamp}id_/{row.original}"


def replayed(address: str | None) -> tuple[str, str] | None:
    """Time and original URL in the URL of a capture; None for any other URL."""
    found = _REPLAY.search(address or "")
    return (found.group(1), found.group(2)) if found else None


def came_from_archive(row: Known) -> bool:
    """Whether the bytes of a row came from an archive."""
    return replayed(row.final_url) is not None


def name_of(url: str) -> str:
    """The resource that a URL names, however it is written: host and path without scheme and escapes.

    Archives record `http://host:80/a%3Db` and `https://host/a=b` as captures of the same resource.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    host = host.lower().removesuffix(":80").removesuffix(":443")
    return host + slash + unquote_to_bytes(path).decode("latin-1")


def may_be_image(mimetype: str) -> bool:
    """Whether a capture of this type is worth requesting."""
    return mimetype.startswith("image/") or mimetype.lower() in _SILENT_TYPES


def judge_capture(capture: Capture, verdict: Verdict, response: Response) -> Verdict:
    """Judge a recorded response; `verdict` is what it would be from a plain host."""
    if verdict.state == "missing":
        return NOT_ARCHIVED
    if response.status != 200 or verdict.state == "opted_out":
        return verdict
    proof = is_indexed(response, capture.digest)
    came = replayed(response.final_url)
    names_it = came is not None and name_of(came[1]) == name_of(capture.original)
    # A revisit may be answered with the capture that it repeats, under that capture's name.
    if not names_it and not proof:
        return Verdict("failed", "other_address", False, "neutral")
    if verdict.state == "done":
        if capture.shared and not (proof or (proof is None and _says_name(response))):
            return Verdict("failed", "other_image", False, "neutral")
        return verdict
    # Bad bytes that match the index will not get better; nor will bytes that can't be compared.
    return verdict._replace(retry=proof is False)


def older_captures(captures: tuple[Capture, ...], verdict: Verdict) -> tuple[Capture, ...]:
    """The captures that are left to try after `verdict` on the first."""
    if verdict.state in ("done", "opted_out") or verdict is EXCLUDED or not captures:
        return ()
    bad, older = captures[0], captures[1:]
    is_proven = not verdict.retry and verdict.reason != "truncated"
    if verdict.state in ("truncated", "not_an_image") and is_proven and bad.digest:
        return tuple(capture for capture in older if capture.digest != bad.digest)
    return older


def is_indexed(response: Response, digest: str | None) -> bool | None:
    """Whether the bytes match the index; None if its `digest` can't tell."""
    found = hashlib.sha1(response.body, usedforsecurity=False).digest()
    if base64.b32encode(found).decode() == digest:
        return True
    unknown = digest is None or any(name in response.headers for name in _ENCODINGS)
    return None if unknown else False


def _says_name(response: Response) -> bool:
    """Whether the archive itself names the URL that it served, rather than only our request."""
    return "content-location" in response.headers or "original" in (
        response.headers.get("link") or ""
    )
