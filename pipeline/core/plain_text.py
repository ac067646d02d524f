"""Make text safe to print on a terminal: escape control characters, whoever wrote them.

Names, captions, paths and messages from other people can contain escapes that move the cursor, recolour the
screen or change the reading direction. They are printed as in Python source code (`\\x1b`).
"""

from __future__ import annotations

import logging

_KEPT = frozenset("\n\t")
_DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _is_control(code: int) -> bool:
    return code < 0x20 or 0x7F <= code < 0xA0


_SHOWN = {
    code: chr(code).encode("unicode_escape").decode()
    for code in (*range(0xA0), *map(ord, _DIRECTIONS))
    if (_is_control(code) and chr(code) not in _KEPT) or chr(code) in _DIRECTIONS
}
# Surrogates stand for file-name bytes that are not UTF-8; no stream can write them.
_SHOWN |= {code: f"\\u{code:04x}" for code in range(0xD800, 0xE000)}
_SHOWN_IN_A_LINE = _SHOWN | {ord("\n"): "\\n", ord("\t"): "\\t"}
_SHOWN_IN_JSON = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def plain_text(text: str) -> str:
    """`text` with visible control characters; line ends and tabs are kept."""
    return text.translate(_SHOWN)


def plain_line(text: str) -> str:
    """`text` as one line: line ends and tabs are made visible, too."""
    return text.translate(_SHOWN_IN_A_LINE)


def plain_json(text: str) -> str:
    """JSON with those control characters escaped that JSON itself allows."""
    return text.translate(_SHOWN_IN_JSON)


class PlainFormatter(logging.Formatter):
    """Formats log records as `plain_text`."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text without control characters."""
        return plain_text(super().format(record))
