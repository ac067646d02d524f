"""Normalise captions, compute their stable ids and choose the usable ones.

Pure. The scraper stores captions as their source has them. Here each gets two forms: `caption` for people
(the page's own case, quotes and characters) and `caption_normalized` for machines (lower case, ASCII quotes,
no invisible characters). The id is a hash of the normalised form.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

# U+2018…U+201B and U+2032 stand for ', U+201C…U+201F and U+2033 for ".
_ASCII_QUOTES = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u201b\u2032", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u201f\u2033", '"')
)
# Invisible characters are removed from the normalised caption: control characters, zero-width characters and
# directional marks. Variation selectors and the tag characters of flags stay: they select another emoji.
_UNSEEN = dict.fromkeys(
    code
    for first, last in (
        (0x00, 0x08),  # white space (0x09 to 0x0D, 0x1C to 0x20, 0x85) is folded, not removed
        (0x0E, 0x1B),
        (0x7F, 0x84),
        (0x86, 0x9F),
        (0xAD, 0xAD),  # soft hyphen
        (0x061C, 0x061C),  # Arabic letter mark
        (0x180E, 0x180E),  # Mongolian vowel separator
        (0x200B, 0x200F),  # zero-width space, non-joiner, joiner; directional marks
        (0x202A, 0x202E),  # direction: embeddings, overrides
        (0x2060, 0x206F),  # word joiner, invisible operators, isolates, deprecated marks
        (0xFEFF, 0xFEFF),  # byte order mark
        (0xFFF9, 0xFFFB),  # interlinear annotation
    )
    for code in range(first, last + 1)
)


class Caption(NamedTuple):
    """Both forms of a caption, and the 64-bit number whose 16 hex digits are its id."""

    caption: str
    normalized: str
    number: int

    @property
    def caption_id(self) -> str:
        """16 hex digits, stable forever."""
        return f"{self.number:016x}"


def clean_caption(text: str) -> str:
    """Unicode NFC, with every run of white space folded to one space and none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def normalize_caption(text: str) -> str:
    """`clean_caption` in lower case, with ASCII quotes and without invisible characters."""
    return clean_caption(clean_caption(text).translate(_ASCII_QUOTES | _UNSEEN).lower())


def read_caption(text: str | None) -> Caption:
    """Both forms of a caption and its id: the first 64 bits of SHA-256 of the normalised form."""
    caption = clean_caption(text or "")
    normalized = normalize_caption(caption)
    digest = hashlib.sha256(normalized.encode("utf-8", "surrogatepass")).digest()
    return Caption(caption, normalized, int.from_bytes(digest[:8], "big"))


def find_defect(caption: str) -> str | None:
    """Why a caption can't be used (it is empty, or a template slot was never filled in), None if it can."""
    if not normalize_caption(caption):
        return "the caption is empty"
    if "{" in caption or "}" in caption:
        return f"a slot was never filled in: {caption}"
    return None


@lru_cache(maxsize=4096)
def caption_of(text: str | None) -> Caption:
    """`read_caption`, cached: each caption occurs once for each of its images."""
    return read_caption(text)


@lru_cache(maxsize=4096)
def _usable(text: str | None) -> Caption | None:
    caption = caption_of(text)
    return caption if find_defect(caption.caption) is None else None


def usable_captions(texts: Iterable[str | None]) -> tuple[Caption, ...]:
    """The captions of an image that can be used, in their order; of those with one id only the first."""
    found: dict[int, Caption] = {}
    for caption in filter(None, map(_usable, texts)):
        found.setdefault(caption.number, caption)
    return tuple(found.values())
