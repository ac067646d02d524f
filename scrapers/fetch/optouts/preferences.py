"""The IETF's AI preferences: what `Content-Usage` says about training (draft-ietf-aipref-vocab). Pure.

A statement is a Dictionary of RFC 9651; the key `train-ai` with the token `n` refuses. A statement that can't
be parsed, or with another value, has no effect.
"""

from __future__ import annotations

import re

_KEY = r"[a-z*][a-z0-9_\-.*]*"
_BARE_ITEM = (
    r"(?:[A-Za-z*][!#$%&'*+\-.^_`|~0-9A-Za-z:/]*"  # token
    r'|"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'  # string
    r"|-?\d{1,12}\.\d{1,3}|-?\d{1,15}"  # decimal, integer
    r"|:[A-Za-z0-9+/=]*:|\?[01]|@-?\d{1,15}"  # bytes, boolean, date
    r'|%"[\x20-\x21\x23-\x7e]*")'  # display string
)
_PARAMETERS = rf"(?:; *{_KEY}(?:={_BARE_ITEM})?)*"
_INNER_LIST = rf"\( *(?:{_BARE_ITEM}{_PARAMETERS}(?: +|(?=\))))*\)"
_MEMBER = re.compile(rf"({_KEY})(?:=({_BARE_ITEM}|{_INNER_LIST}))?{_PARAMETERS}")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_MAX_CHARS = 8192


def refuses_training(statement: str) -> bool:
    """Whether a statement disallows the training of models."""
    return parse_dictionary(statement).get("train-ai") == "n"


def parse_dictionary(text: str) -> dict[str, str | None]:
    """The keys of an RFC 9651 Dictionary and their values as written, None for a bare key.

    Empty if it can't be parsed. If a key occurs twice, the last one counts (RFC 9651, 4.2.2).
    """
    text = text.strip(" ")
    found: dict[str, str | None] = {}
    position = 0
    while position < len(text) <= _MAX_CHARS:
        member = _MEMBER.match(text, position)
        if member is None:
            return {}
        found[member[1]] = member[2]
        position = member.end()
        if position == len(text):
            return found
        comma = _COMMA.match(text, position)
        if comma is None or comma.end() == len(text):
            return {}
        position = comma.end()
    return {}
