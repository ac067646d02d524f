"""What one answer, or the lack of one, says of its URL and of its host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.contracts import UrlState
from scrapers.sniff import Flaw, ImageFormat, sniff

# How a host took a request: `good` may speed it up, `overload` slows it down, `down` says that no
# sense came back; `neutral` is an answer of a server that is alive.
HostSign = Literal["good", "neutral", "overload", "down"]

OPT_OUTS = frozenset({"noai", "noimageai", "noindex", "noimageindex", "none"})
# Directives that have a colon of their own.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
_RETRIED = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})


class Verdict(NamedTuple):
    """`state` is the URL's if this was its last attempt; `retry` asks for another one.

    `flaw` is what is odd about the bytes of an image that is stored all the same.
    """

    state: UrlState
    reason: str | None
    retry: bool
    sign: HostSign
    format: ImageFormat | None = None
    flaw: Flaw | None = None


UNCHANGED = Verdict("done", None, False, "good")


def judge_answer(status: int, opt_out: str | None, body: bytes, *, stored: bool = False) -> Verdict:
    """Judge an answer; `opt_out` is what `find_opt_out` read in its headers.

    `stored` says that we have bytes of it, which a 304 can speak of.
    """
    if status == 304 and stored:
        return UNCHANGED
    if status == 200:
        return (
            _judge_body(body)
            if opt_out is None
            else Verdict("opted_out", opt_out, False, "neutral")
        )
    reason = f"http_{status}"
    if status in _GONE:
        return Verdict("missing", reason, False, "neutral")
    if status in (429, 503):
        return Verdict("failed", reason, True, "overload")
    if status in _RETRIED:
        return Verdict("failed", reason, True, "neutral")
    if status >= 500:
        return Verdict("failed", reason, True, "down")
    return Verdict("failed", reason, False, "neutral")


def _judge_body(body: bytes) -> Verdict:
    found = sniff(body)
    if found.format is None:
        reason = "empty" if not body else "html" if _looks_like_html(body) else "unknown_format"
        # Asked again all the same: servers show error pages with status 200 for a while.
        return Verdict("not_an_image", reason, True, "neutral")
    if not found.whole:
        return Verdict("truncated", "ends_early", True, "neutral", found.format)
    return Verdict("done", None, False, "good", found.format, found.flaw)


def _looks_like_html(body: bytes) -> bool:
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--"))


def find_opt_out(tags: list[str], agent: str) -> str | None:
    """The directive of `X-Robots-Tag` headers that asks `agent` to stay away, or None.

    A header may begin with a product token (`otherbot: noai`), which makes it that bot's alone.
    """
    for tag in tags:
        name, colon, rest = tag.partition(":")
        named = colon and "," not in name and name.strip().lower() not in _VALUED
        if named and name.strip().lower() != agent.lower():
            continue
        for directive in (rest if named else tag).lower().split(","):
            if directive.strip() in OPT_OUTS:
                return f"x_robots_{directive.strip()}"
    return None


# What the state of a probe says of its caption form.
Evidence = Literal["exists", "absent", "unknown"]

_EVIDENCE: Mapping[UrlState, Evidence] = {
    "done": "exists",
    "opted_out": "exists",
    "truncated": "exists",
    "missing": "absent",
}


def evidence_of(state: UrlState, status: int | None) -> Evidence:
    """Whether an image in `state` shows that its caption form exists on the host.

    Object stores answer 403 (or 401) for what is not there if listing is forbidden.
    """
    if state == "failed" and status in (401, 403):
        return "absent"
    return _EVIDENCE.get(state, "unknown")
