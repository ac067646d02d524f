"""Captions: one spelling for what is one caption, an id that lasts, and what makes one unusable.

Pure. The scraper keeps captions as their source gives them; here they get their two spellings:
`caption` (for people: the page's own quotes and case) and `caption_normalized` (for machines:
lower case, ASCII quotes), of which the id is a hash.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import NamedTuple

# U+2018…U+201B and U+2032 stand for ', U+201C…U+201F and U+2033 for ".
_ASCII_QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"')
)


class Caption(NamedTuple):
    """A caption in both spellings, with the 64-bit number whose 16 hex digits are its id."""

    caption: str
    normalized: str
    number: int

    @property
    def caption_id(self) -> str:
        """16 hex digits, stable for ever."""
        return f"{self.number:016x}"


def clean_caption(text: str) -> str:
    """Unicode NFC, white space (of every kind) folded to single blanks, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_caption(text: str) -> str:
    """`clean_caption` in lower case with ASCII quotes."""
    return clean_caption(clean_caption(text).translate(_ASCII_QUOTES).lower())


def read_caption(text: str | None) -> Caption:
    """Both spellings of a caption and its id: the first 64 bits of SHA-256 of the normalised one."""
    caption = clean_caption(text or "")
    normalized = normalize_caption(caption)
    digest = hashlib.sha256(normalized.encode("utf-8", "surrogatepass")).digest()
    return Caption(caption, normalized, int.from_bytes(digest[:8], "big"))


def find_defect(caption: str) -> str | None:
    """Say why a caption can't be used, None if it can: it is empty, or a slot was never filled in."""
    if not caption:
        return "the caption is empty"
    if "{" in caption or "}" in caption:
        return f"a slot was never filled in: {caption}"
    return None
