"""The signals in the headers of a response: X-Robots-Tag, TDMRep, Content-Usage. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from scrapers.fetch.optouts.preferences import refuses_training
from scrapers.fetch.optouts.signals import REFUSING_DIRECTIVES, Refusal

# Returns all values of a header by its name in lower case.
GetAll = Callable[[str], Sequence[str]]

# An archive passes on the headers that were recorded.
ARCHIVED = "x-archive-orig-"
_ROBOTS_TAG, _TDM_RESERVATION, _CONTENT_USAGE = "x-robots-tag", "tdm-reservation", "content-usage"
# A response without any of these has no signals.
SIGNAL_NAMES = frozenset(
    start + name
    for start in ("", ARCHIVED)
    for name in (_ROBOTS_TAG, _TDM_RESERVATION, _CONTENT_USAGE)
)
# Directives that contain a colon themselves.
_VALUED = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
# The name of a robot; the rest of a date doesn't look like one.
_AGENT = re.compile(r"\s*(\*|[A-Za-z][\w.\-]*)(?:/\S*)?\s*:(.*)", re.S)


class HeaderSignals(NamedTuple):
    """The signals of headers: who refuses, and whether TDM rights are reserved (1), not (0), or unstated."""

    refusal: Refusal | None
    tdm_reservation: int | None


NO_SIGNALS = HeaderSignals(None, None)


def read_headers(getall: GetAll, *, agent: str, url: str) -> HeaderSignals:
    """Read the signals in the headers of a response from `url`; `agent` is our product token."""

    if not any(map(getall, SIGNAL_NAMES)):
        return NO_SIGNALS

    def values(name: str) -> list[str]:
        return [*getall(name), *getall(ARCHIVED + name)]

    reservation = _read_reservation(values(_TDM_RESERVATION))
    refusal = (
        _read_robots_tags(values(_ROBOTS_TAG), agent, url)
        or (_reserved(values("tdm-policy"), url) if reservation == 1 else None)
        or _read_usage(values(_CONTENT_USAGE), url)
    )
    return HeaderSignals(refusal, reservation)


def find_directive(tags: Sequence[str], agent: str) -> str | None:
    """The directive of `X-Robots-Tag` headers that asks `agent` to stay away, or None.

    A product token (`otherbot: noai`) limits what follows it to that robot, up to the next token or the end
    of the header.
    """
    for tag in tags:
        for_us = True
        for part in tag.split(","):
            named = _AGENT.fullmatch(part)
            if named is not None and named[1].lower() not in _VALUED:
                for_us, part = named[1].lower() in ("*", agent.lower()), named[2]
            directive = part.strip().lower()
            if for_us and directive in REFUSING_DIRECTIVES:
                return directive
    return None


def _read_robots_tags(tags: list[str], agent: str, url: str) -> Refusal | None:
    directive = find_directive(tags, agent)
    if directive is None:
        return None
    return Refusal(
        signal="x-robots-tag",
        reason=f"x_robots_{directive}",
        where=url,
        text=f"X-Robots-Tag: {'; '.join(tags)}",
    )


def _read_reservation(values: list[str]) -> int | None:
    """1 if any value is 1; values other than 0 and 1 are ignored (TDMRep, section 5)."""
    said = {part.strip() for value in values for part in value.split(",")}
    return 1 if "1" in said else 0 if "0" in said else None


def _reserved(policies: list[str], url: str) -> Refusal:
    policy = "".join(f"; tdm-policy: {policy}" for policy in policies[:1])
    return Refusal(
        signal="tdm-reservation",
        reason="tdm_reservation",
        where=url,
        text=f"tdm-reservation: 1{policy}",
    )


def _read_usage(statements: list[str], url: str) -> Refusal | None:
    """Each header is a statement of its own, and any `n` prevails (draft-ietf-aipref-vocab, 5.1)."""
    for statement in statements:
        if refuses_training(statement):
            return Refusal(
                signal="content-usage",
                reason="content_usage",
                where=url,
                text=f"Content-Usage: {statement}",
            )
    return None
