"""The bytes of a page and what they say."""

from __future__ import annotations

import pytest

from scrapers.fetch.charset import decode_page

LATIN, JAPANESE = "<p>café’s “owl”</p>", "<p>ガラスのテーブルの上の青い球</p>"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (LATIN.encode("cp1252"), "text/html; charset=ISO-8859-1", LATIN),
        (LATIN.encode("cp1252"), 'text/html; charset="latin1"', LATIN),
        (LATIN.encode("cp1252"), None, LATIN),
        (LATIN.encode("cp1252"), "text/html; charset=utf-8", LATIN),
        (LATIN.encode(), "text/html; charset=ISO-8859-1", LATIN),
        (LATIN.encode(), "text/html; charset=unicode_escape", LATIN),
        (b"\x81\x8d<p>", "text/html; charset=windows-1252", "\x81\x8d<p>"),
        (JAPANESE.encode("cp932"), "text/html;charset=Shift_JIS", JAPANESE),
        (b"<meta charset=x-sjis>" + JAPANESE.encode("cp932"), None, "<meta charset=x-sjis>" + JAPANESE),
        (JAPANESE.encode("euc-jp"), "text/html; Charset=EUC-JP", JAPANESE),
        (JAPANESE.encode("utf-16"), "text/html; charset=iso-8859-1", JAPANESE),
        (JAPANESE.encode("utf-16-le"), "text/html; charset=utf-16", JAPANESE),
        (JAPANESE.encode("utf-16-be"), "text/html; charset=utf-16be", JAPANESE),
        (LATIN.encode("utf-16-le"), None, LATIN),
        (LATIN.encode("utf-16-be"), None, LATIN),
        ("\ufeff<p>é".encode(), "text/html; charset=windows-1252", "<p>é"),
        ("<p>蓝色球体".encode("gb18030"), "text/html; charset=gb2312", "<p>蓝色球体"),
        ("<p>синий шар".encode("koi8-r"), "text/html; charset=koi8-r", "<p>синий шар"),
        (b'<meta charset="utf-16">' + LATIN.encode(), None, '<meta charset="utf-16">' + LATIN),
        (b"", "text/html; charset=utf-8", ""),
    ],
)  # fmt: skip
def test_the_charset_is_what_is_declared_where_the_bytes_agree(
    body: bytes, content_type: str | None, text: str
) -> None:
    assert decode_page(body, content_type) == text


def test_a_broken_byte_costs_its_character_alone() -> None:
    assert decode_page("é".encode() * 9 + b"\xff", "text/html; charset=utf-8") == "é" * 9 + "\ufffd"
