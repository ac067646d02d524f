"""Responses of a web archive to requests for a capture: which capture it is, or an error page.

Everything that was recorded comes with `Memento-Datetime` (RFC 7089); anything without it is a page of the
archive's own.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Literal
from urllib.parse import urljoin

from scrapers.fetch.client import HopCheck
from scrapers.fetch.optouts.headers import ARCHIVED, HeaderSignals, read_headers
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.request_url import parse_address
from scrapers.fetch.response import FetchError, Response
from scrapers.fetch.verdict import Verdict
from scrapers.wayback.captures import (
    EXCLUDED,
    LOST,
    Capture,
    is_indexed,
    judge_capture,
    name_of,
    replayed,
)

# An archive announces the recorded length, sends what it has, and may keep the connection open.
QUIET_S = 10.0
_MEMENTO = "memento-datetime"
_RUNTIME_ERROR = "x-archive-wayback-runtime-error"
_TAG = "x-robots-tag"
_ORIGINAL = re.compile(r'<([^<>]+)>\s*;[^,<]*rel="?original\b')
# Texts of the Wayback Machine, in a header or a page, and the status of pywb's access control.
_WORDS: Mapping[str, tuple[str, ...]] = {
    "excluded": (
        "AdministrativeAccessControl",
        "RobotAccessControl",
        "Blocked Site Error",
        "has been excluded from the Wayback Machine",
    ),
    "lost": ("ResourceNotAvailable", "WARCPathLoader", "ArchiveLoadFailed"),
}
_BLOCKED = 451
_READ_BYTES = 64 * 1024
# By which an archive keeps its copies out of search engines; it is not a statement of the images' owners.
_ABOUT_SEARCH = frozenset({"x_robots_noindex", "x_robots_noimageindex", "x_robots_none"})


def is_recorded(response: Response) -> bool:
    """Whether a response is a capture, whatever its status, and not one of the archive's own pages."""
    return _MEMENTO in response.headers and _RUNTIME_ERROR not in response.headers


def archive_says(response: Response) -> Literal["excluded", "lost"] | None:
    """Why the archive doesn't return what it has, if it says so, whatever the status."""
    if is_recorded(response):
        return None
    if response.status == _BLOCKED:
        return "excluded"
    text = response.headers.get(_RUNTIME_ERROR) or ""
    if response.status != 200 or looks_like_page(response.body):
        text += response.body[:_READ_BYTES].decode("utf-8", "replace")
    for said in ("excluded", "lost"):
        if any(words in text for words in _WORDS[said]):
            return "excluded" if said == "excluded" else "lost"
    return None


def is_own_page(response: Response, digest: str | None) -> bool:
    """Whether a response is a page of the archive's own with status 200, and not the body of `digest`."""
    if response.status != 200 or is_recorded(response):
        return False
    return looks_like_page(response.body) and not is_indexed(response, digest)


def looks_like_page(body: bytes) -> bool:
    """Whether a body is HTML."""
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<!--"))


def is_same_host(url: str, base: str) -> bool:
    """Whether two URLs have the same host."""
    return parse_address(url).host == parse_address(base).host


def refusal_of_archive(signals: HeaderSignals) -> Refusal | None:
    """What an archive's own headers refuse; not counting directives for search engines."""
    refusal = signals.refusal
    return None if refusal is None or refusal.reason in _ABOUT_SEARCH else refusal


@dataclass(kw_only=True)
class Replay:
    """Reads captures of the archive at `base`; `agent` is our product token.

    `tags` are the values of X-Robots-Tag in responses of its index: they are the archive's own.
    """

    base: str
    replay: str
    agent: str
    allow_hop: HopCheck
    passes_headers: bool = False
    quiet_s: float = field(default_factory=lambda: QUIET_S)
    tags: set[str] = field(default_factory=set)

    async def allow_redirect(self, url: str, public_only: bool) -> bool:
        """Whether a redirect may be followed: to another capture, and to nothing outside the archive.

        A recorded redirect is unchanged and leads to the live site. Raises FetchError.
        """
        if replayed(url) is None or not is_same_host(url, self.base):
            raise FetchError("leaves_archive", "a recorded redirect that leads out of the archive")
        return await self.allow_hop(url, public_only)

    def read(self, response: Response) -> Response:
        """The response with the URL of the served capture and only the signals of its site."""
        signals = self._signals(response, own=False)
        return response._replace(final_url=self._served(response), signals=signals)

    def judge(
        self, capture: Capture, verdict: Verdict, response: Response, *, heed: bool = True
    ) -> Verdict:
        """Judge a response that `read` has read; `verdict` is what it would be from a plain host.

        `heed`: what the archive itself refuses is not used.
        """
        if (said := archive_says(response)) is not None:
            return EXCLUDED if said == "excluded" else LOST
        if is_recorded(response):
            if response.status != 200 and verdict.state == "failed":
                return verdict._replace(retry=False, sign="neutral")
        elif response.status == 504:
            return verdict._replace(sign="overload")
        elif is_own_page(response, capture.digest):
            return Verdict("failed", "archive_page", True, "overload")
        own = self.own_refusal(response) if heed and response.status == 200 else None
        if own is not None:
            return Verdict("failed", f"archive_{own.reason}", False, "neutral", detail=str(own))
        return judge_capture(capture, verdict, response)

    def own_refusal(self, response: Response) -> Refusal | None:
        """What the archive itself refuses in a header; not counting directives for search engines."""
        return refusal_of_archive(self._signals(response, own=True))

    # --- Headers ----------------------------------------------------------------------------------

    def _signals(self, response: Response, *, own: bool) -> HeaderSignals:
        """What the archive's own headers say, or those of the recorded site."""

        def values(name: str) -> Sequence[str]:
            found = response.headers.getall(name)
            return [value for value in found if self._is_own(response, name, value) is own]

        return read_headers(values, agent=self.agent, url=response.final_url)

    def _is_own(self, response: Response, name: str, value: str) -> bool:
        """Whether a field is the archive's: all are, unless it passes recorded ones on unchanged."""
        if name.startswith(ARCHIVED):
            return False
        if name == _TAG and value in self.tags:
            return True
        return not is_recorded(response) or (
            not self.passes_headers
            and any(found.startswith(ARCHIVED) for found in response.headers.names())
        )

    # --- Which capture ----------------------------------------------------------------------------

    def _served(self, response: Response) -> str:
        """The URL of the capture that was served, according to the archive."""
        if not is_recorded(response):
            return response.final_url
        location = response.headers.get("content-location")
        located = replayed(urljoin(response.final_url, location)) if location else None
        asked = replayed(response.final_url)
        named = _ORIGINAL.search(response.headers.get("link") or "")
        original = located[1] if located else named[1] if named else asked[1] if asked else None
        timestamp = _timestamp(response.headers.get(_MEMENTO)) or (located or asked or ("",))[0]
        if original is None or not timestamp:
            return response.final_url
        if asked and name_of(asked[1]) == name_of(original):
            original = asked[1]  # as its index spells it
        return f"{self.replay}{timestamp}id_/{original}"


def _timestamp(date: str | None) -> str | None:
    """An HTTP date as 14 digits."""
    try:
        when = parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return time.strftime("%Y%m%d%H%M%S", when.utctimetuple())
