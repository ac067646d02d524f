"""What a terminal would act upon is written out."""

from __future__ import annotations

import pytest

from pipeline.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a red cat", "a red cat"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\tb\nc\rd", "a\\tb\\nc\\rd"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.tac", "\\u202egnp.tac"),
        ("\u2066a\u2069\u200f", "\\u2066a\\u2069\\u200f"),
        ("one\u2028two", "one\\u2028two"),
        ("\ud83d", "\\ud83d"),
        ("café \u2019 ❤\ufe0f 👩\u200d🔬", "café \u2019 ❤\ufe0f 👩\u200d🔬"),
        ("[red]markup[/red]", "[red]markup[/red]"),
    ],
)
def test_control_characters_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    printable(text).encode()
