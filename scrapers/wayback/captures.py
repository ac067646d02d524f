"""The captures of a web archive: their addresses, their names, and what to make of one that came. Pure.

    {replay}{timestamp}id_/{original}  the bytes of one capture as they were recorded

An index files its rows under a key in lower case. URLs that differ by case only, as base64 keys do, share
that key, and the archive may give the capture of one for the other: the SHA-1 in the index tells them apart.
It is that of the body as it was sent: where that was encoded, it says nothing of what we get.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from scrapers.fetch.response import Answer
from scrapers.fetch.verdict import Verdict
from scrapers.wayback_query import IndexRow

NOT_ARCHIVED = Verdict("missing", "not_archived", False, "neutral")
# The index may not have named all that it holds there.
NOT_LISTED = Verdict("missing", "not_listed", False, "neutral")
# What the archive has and does not give: its administrator has excluded it, or its file is gone.
EXCLUDED = Verdict("missing", "archive_excluded", False, "neutral")
LOST = Verdict("missing", "archive_lost", False, "neutral")
# Reasons for which only an archive lacks something.
ARCHIVE_REASONS = frozenset(
    verdict.reason for verdict in (NOT_ARCHIVED, NOT_LISTED, EXCLUDED, LOST)
)

_REPLAY = re.compile(r"/(\d{4,14})(?:[a-z]{2}_)?/(https?:.+)", re.S)
# Types of an image; object stores also serve images under types that say nothing, and a revisit has that of
# what it repeats.
_SILENT_TYPES = frozenset(
    {"application/octet-stream", "binary/octet-stream", "unk", "-", "", "warc/revisit"}
)
# A recorded body that these changed is not the one whose digest is known.
_ENCODINGS = (
    "content-encoding",
    "x-archive-orig-content-encoding",
    "x-archive-orig-transfer-encoding",
)


class Capture(NamedTuple):
    """One capture of an image. `shared`: its key in the index is that of other addresses too."""

    address: str
    original: str
    digest: str | None
    shared: bool


def replay_address(replay: str, row: IndexRow) -> str:
    """Where the bytes of a capture are, as they were recorded; `replay` is what stands before the time."""
    return f"{replay}{row.timestamp}id_/{row.original}"


def replayed(address: str | None) -> tuple[str, str] | None:
    """Time and original URL in the address of a capture; None for any other address."""
    found = _REPLAY.search(address or "")
    return (found.group(1), found.group(2)) if found else None


def name_of(url: str) -> str:
    """What a URL names, in whichever way it is written: host and path without scheme and escapes.

    Archives record `http://host:80/a%3Db` and `https://host/a=b` as captures of one thing.
    """
    host, slash, path = url.partition("://")[2].partition("/")
    host = host.lower().removesuffix(":80").removesuffix(":443")
    return host + slash + unquote_to_bytes(path).decode("latin-1")


def may_be_image(mimetype: str) -> bool:
    """Whether a capture of this type is worth asking for."""
    return mimetype.startswith("image/") or mimetype.lower() in _SILENT_TYPES


def judge_capture(capture: Capture, verdict: Verdict, answer: Answer) -> Verdict:
    """Judge a recorded answer; `verdict` is what would be said of it from a plain host."""
    if verdict.state == "missing":
        return NOT_ARCHIVED
    if answer.status != 200 or verdict.state == "opted_out":
        return verdict
    proof = is_indexed(answer, capture.digest)
    came = replayed(answer.final_url)
    names_it = came is not None and name_of(came[1]) == name_of(capture.original)
    # A revisit may be answered with the capture that it repeats, under the name of that.
    if not names_it and not proof:
        return Verdict("failed", "other_address", False, "neutral")
    if verdict.state == "done":
        if capture.shared and not (proof or (proof is None and _says_name(answer))):
            return Verdict("failed", "other_image", False, "neutral")
        return verdict
    # Bytes that are bad and just those of the index will not get better; nor will what can't be compared.
    return verdict._replace(retry=proof is False)


def older_captures(captures: tuple[Capture, ...], verdict: Verdict) -> tuple[Capture, ...]:
    """What is left to try after `verdict` on the first capture."""
    if verdict.state in ("done", "opted_out") or verdict is EXCLUDED or not captures:
        return ()
    bad, older = captures[0], captures[1:]
    is_proven = not verdict.retry and verdict.reason != "truncated"
    if verdict.state in ("truncated", "not_an_image") and is_proven and bad.digest:
        return tuple(capture for capture in older if capture.digest != bad.digest)
    return older


def is_indexed(answer: Answer, digest: str | None) -> bool | None:
    """Whether the bytes are those of the index; None if its `digest` can't say."""
    found = hashlib.sha1(answer.body, usedforsecurity=False).digest()
    if base64.b32encode(found).decode() == digest:
        return True
    unknown = digest is None or any(name in answer.headers for name in _ENCODINGS)
    return None if unknown else False


def _says_name(answer: Answer) -> bool:
    """Whether the archive itself says which URL it served, not only we which one we asked for."""
    return "content-location" in answer.headers or "original" in (answer.headers.get("link") or "")
