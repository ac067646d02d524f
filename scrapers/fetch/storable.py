"""Text as a ledger can keep it, whatever a server or a page wrote. Pure."""

from __future__ import annotations

# No validator is longer; a million rows of 64 kB would be.
MAX_HEADER_CHARS = 1024
MAX_URL_CHARS = 8192
# Reasons of rows whose validators were not kept as they came.
ALTERED = frozenset({"bad_etag", "bad_last_modified", "unstorable"})


def storable(text: str) -> str:
    """The same text; surrogates, which no UTF-8 has, are written out as `\\udce9`."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def storable_header(value: str | None) -> tuple[str | None, bool]:
    """A header's value as it is kept, and whether it is kept as it came.

    Raw bytes and control characters are escaped; one that is too long is dropped.
    """
    if value is None or (
        value.isascii() and value.isprintable() and len(value) <= MAX_HEADER_CHARS
    ):
        return value, True
    if len(value) > MAX_HEADER_CHARS:
        return None, False
    kept = "".join(map(_escaped, value))
    return kept, kept == value


def _escaped(char: str) -> str:
    """Raw bytes stand in the text as the surrogates U+DC80 to U+DCFF."""
    number = ord(char)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return char if char.isprintable() else char.encode("unicode_escape").decode()
