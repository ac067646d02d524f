"""The bytes of a page → its text, as browsers read it (WHATWG Encoding). Pure.

In this order: a byte order mark, the zeros of UTF-16, the charset of `Content-Type`, that of `<meta>` or of
an XML declaration, UTF-8, windows-1252. A charset that most of the bytes contradict is skipped: servers label
anything as ISO-8859-1.
"""

from __future__ import annotations

import codecs
import re

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Labels of the standard that Python interprets differently or doesn't know, with Python's names.
_CODECS = {
    **dict.fromkeys(("iso-8859-1", "latin1", "l1", "ascii", "us-ascii", "iso8859-1"), "cp1252"),
    **dict.fromkeys(("iso-8859-9", "latin5"), "cp1254"),
    **dict.fromkeys(("iso-8859-11", "tis-620", "windows-874"), "cp874"),
    **dict.fromkeys(
        ("shift_jis", "shift-jis", "sjis", "x-sjis", "ms_kanji", "windows-31j"), "cp932"
    ),
    **dict.fromkeys(("gb2312", "gbk", "x-gbk", "chinese"), "gb18030"),
    **dict.fromkeys(("euc-kr", "ks_c_5601-1987", "korean", "ksc5601"), "cp949"),
    **dict.fromkeys(("big5", "big5-hkscs", "x-x-big5"), "big5hkscs"),
    **dict.fromkeys(("utf-16", "utf-16le", "unicode", "ucs-2"), "utf-16-le"),
    "utf-16be": "utf-16-be",
    "x-mac-cyrillic": "mac_cyrillic",
    "macintosh": "mac_roman",
    "utf8": "utf-8",
    "unicode-1-1-utf-8": "utf-8",
}
# Of the other labels only those of the standard: some of Python's codecs are no charsets.
_STANDARD = re.compile(
    r"utf-8|(?:windows-|cp|x-cp)125[0-8]|iso-?8859-\d+|latin\d|koi8-[ru]|ibm866|cp866|euc-jp|"
    r"iso-2022-jp|gb18030"
)
_CHARSET = re.compile(r"""charset\s*=\s*["']?\s*([\w:.+-]+)""", re.IGNORECASE)
_DECLARED = re.compile(
    rb"""<meta\b[^>]*?charset\s*=\s*["']?\s*([\w:.+-]+)|^\s*<\?xml\b[^>]*?encoding=["']([\w.+-]+)""",
    re.IGNORECASE,
)
_DECLARED_WITHIN = 4_096
# Bytes that windows-1252 leaves undefined are control characters to browsers.
_CP1252 = {
    byte: bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xA0)
}
_UTF16_SAMPLE = 4_096


def decode_page(body: bytes, content_type: str | None = None) -> str:
    """The text of a page; `content_type` is the header that came with it."""
    for mark, codec in _BOMS:
        if body.startswith(mark):
            return body[len(mark) :].decode(codec, "replace")
    if (found := _utf16_without_mark(body)) is not None:
        return body.decode(found, "replace")
    for label in (_label_in(content_type or ""), _declared(body), "utf-8"):
        text = None if label is None else _decode_if_right(body, label)
        if text is not None:
            return text
    return _decode(body, "cp1252")


def _utf16_without_mark(body: bytes) -> str | None:
    """HTML is mostly ASCII: in UTF-16 every second byte is zero, and hardly any other."""
    sample = body[: min(_UTF16_SAMPLE, len(body) // 2 * 2)]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    enough = len(sample) // 8
    if max(even, odd) <= max(enough, 1) or min(even, odd) * 8 > max(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _label_in(content_type: str) -> str | None:
    match = _CHARSET.search(content_type)
    return None if match is None else match[1]


def _declared(body: bytes) -> str | None:
    match = _DECLARED.search(body[:_DECLARED_WITHIN])
    label = "" if match is None else (match[1] or match[2]).decode("ascii")
    # What was decoded to find this is not UTF-16.
    return "utf-8" if label.lower().startswith("utf-16") else label or None


def _decode_if_right(body: bytes, label: str) -> str | None:
    """The text by the charset of this label; None if it is unknown, or most of the bytes contradict it."""
    label = label.strip().lower()
    codec = _CODECS.get(label, label if _STANDARD.fullmatch(label) else None)
    if codec is None:
        return None
    text = _decode(body, codec)
    others = len(text) - len(text.encode("ascii", "ignore"))
    wrong = text.count("\ufffd") - body.count("\ufffd".encode())
    if wrong * 2 > others:
        return None
    if codec == "cp1252" and others and _is_utf8(body):
        return None  # A whole page of windows-1252 is never valid UTF-8 by chance.
    return text


def _decode(body: bytes, codec: str) -> str:
    if codec == "cp1252":
        return body.decode("latin-1").translate(_CP1252)
    try:
        return body.decode(codec, "replace")
    except LookupError:
        return body.decode("utf-8", "replace")


def _is_utf8(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
