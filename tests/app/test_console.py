"""What is printed is what was written: no markup, no emoji codes, no control characters."""

from __future__ import annotations

import json

import pytest

from pipeline.app.console import Screen
from pipeline.core.plain_text import plain_line, plain_text

MARKED = "[bold]x[/bold] [clip] [/] :cat: [link=http://x]"
ESCAPES = "\x1b[31mred\x07\r\x9b2J\u202e"
SHOWN = "\\x1b[31mred\\x07\\r\\x9b2J\\u202e"


def test_markup_of_names_and_messages_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say(MARKED)
    screen.fail(MARKED)
    screen.table(MARKED, (MARKED,), [(MARKED,)])
    with screen.progress(MARKED) as progress:
        progress(1, 2, {"from": MARKED})
    out, err = capsys.readouterr()
    assert out.count(MARKED) == 4
    assert err == f"Error: {MARKED}\n"


def test_control_characters_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(json_mode=True)
    screen.say(ESCAPES)
    screen.fail(ESCAPES)
    screen.table(ESCAPES, (ESCAPES,), [(ESCAPES + "\n",)])
    screen.emit({"name": ESCAPES})
    out, err = capsys.readouterr()
    assert not {"\x1b", "\x07", "\r", "\x9b", "\x7f"} & set(out + err)
    assert err.count(SHOWN) == 5
    assert f"{SHOWN}\\n" in err
    assert json.loads(out) == {"name": ESCAPES}


def test_lines_and_letters_stay_as_they_are() -> None:
    text = "a line\n\ta tab, é, 猫, 🐈, \u00a0 and \u2028"
    assert plain_text(text) == text
    assert plain_line("a\n\tb") == "a\\n\\tb"
    assert plain_text("\udcff\x00") == "\\udcff\\x00"
