"""What a response, or the lack of one, means for its URL and for its host. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from pipeline.core.contracts import UrlState
from scrapers.fetch.optouts.signals import Refusal
from scrapers.fetch.sniff import ImageFormat, sniff

# How a host took a request: `good` may speed it up, `overload` slows it down, `down` means that nothing
# sensible came back; `neutral` is a response of a server that is alive.
HostSign = Literal["good", "neutral", "overload", "down"]

_RETRIED = frozenset({408, 425, 429})
_GONE = frozenset({404, 410})


class Verdict(NamedTuple):
    """`state` is the URL's if this was its last attempt; `retry` asks for another one.

    `reason` is a short word: why it is not done, or what is odd about its bytes. `detail` is for messages,
    `refusal` the signal that opted it out.
    """

    state: UrlState
    reason: str | None
    retry: bool
    sign: HostSign
    format: ImageFormat | None = None
    detail: str = ""
    refusal: Refusal | None = None


UNCHANGED = Verdict("done", None, False, "good")


def opt_out(refusal: Refusal) -> Verdict:
    """The verdict for a refusal."""
    return Verdict("opted_out", refusal.reason, False, "neutral", refusal=refusal)


def judge_response(
    status: int, refusal: Refusal | None, body: bytes, *, stored: bool = False
) -> Verdict:
    """Judge a response; `refusal` is that of its headers (or of the host's TDMRep file).

    `stored` means that we have bytes of it, which a 304 can confirm.
    """
    if refusal is not None and (status == 200 or (status == 304 and stored)):
        return opt_out(refusal)
    if status == 304 and stored:
        return UNCHANGED
    if status == 200:
        return _judge_body(body)
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
        # Retried all the same: servers temporarily show error pages with status 200.
        return Verdict("not_an_image", reason, True, "neutral")
    if not found.whole:
        return Verdict("truncated", "ends_early", True, "neutral", found.format)
    return Verdict("done", found.flaw, False, "good", found.format)


def _looks_like_html(body: bytes) -> bool:
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return start.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<!--"))


# What the state of a probe means for its caption form.
Evidence = Literal["exists", "absent", "unknown"]

_EVIDENCE: Mapping[UrlState, Evidence] = {
    "done": "exists",
    "opted_out": "exists",
    "truncated": "exists",
    "hash_mismatch": "exists",
    "missing": "absent",
}


def evidence_of(state: UrlState, status: int | None) -> Evidence:
    """Whether an image in `state` shows that its caption form exists on the host.

    Object stores respond with 403 (or 401) to what doesn't exist if listing is forbidden.
    """
    if state == "failed" and status in (401, 403):
        return "absent"
    return _EVIDENCE.get(state, "unknown")
