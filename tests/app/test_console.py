"""What is printed is what was written: no markup, no emoji codes, no control characters."""

from __future__ import annotations

import json
import logging
import time

import pytest

from pipeline.app import console
from pipeline.app.console import LogFormatter, Screen
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


def test_a_silent_stage_is_shown_to_be_alive_and_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "SILENCE_S", 0.01)
    monkeypatch.setattr(console, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(console, "PLAIN_LINE_EVERY_S", 0.001)
    shown = ""
    with Screen().progress("train") as progress:
        while "train: 0 done  now starting" not in shown:  # before it has reported anything
            shown += capsys.readouterr().out
        progress(0, 500, {"now": "the first step"})
        while "train: 0 of 500 (0 %)  now the first step, no change for" not in shown:
            shown += capsys.readouterr().out
    capsys.readouterr()
    time.sleep(0.05)
    assert capsys.readouterr().out == ""


def test_an_announcement_is_printed_without_its_origin() -> None:
    def formatted(level: int, *, whole: bool) -> str:
        record = logging.LogRecord("pipeline.x", level, "x.py", 1, "About to begin", (), None)
        return LogFormatter(whole=whole).format(record)

    assert formatted(logging.INFO, whole=False) == "About to begin"
    assert formatted(logging.INFO, whole=True) == "INFO pipeline.x: About to begin"
    assert formatted(logging.WARNING, whole=False) == "WARNING pipeline.x: About to begin"


def test_a_pipe_gets_no_bar_whatever_the_environment_says(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a notebook
    screen = Screen()
    with screen.progress("train") as progress:
        progress(1, 2, None)
    screen.table("title", ("column",), [("cell",)])
    screen.fail("it failed")
    out, _ = capsys.readouterr()
    assert "\x1b" not in out
