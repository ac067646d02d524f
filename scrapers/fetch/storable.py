"""Text that a ledger can store, whatever a server or a page wrote. Pure."""

from __future__ import annotations

# No validator is longer; a million rows of 64 kB would be.
MAX_HEADER_CHARS = 1024
MAX_URL_CHARS = 8192
# Reasons of rows whose validators had to be altered.
ALTERED = frozenset({"bad_etag", "bad_last_modified", "unstorable"})


def storable(text: str) -> str:
    """The same text; surrogates, which UTF-8 can't encode, are written out as `\\udce9`."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def storable_header(value: str | None) -> tuple[str | None, bool]:
    """A header's value in a storable form, and whether it is unaltered.

    Raw bytes and control characters are escaped; a value that is too long is dropped.
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
    """Raw bytes are the surrogates U+DC80 to U+DCFF in the text."""
    number = ord(char)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\x{number - 0xDC00:02x}"
    return char if char.isprintable() else char.encode("unicode_escape").decode()
