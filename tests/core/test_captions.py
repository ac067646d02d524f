"""One caption has one spelling and one id, forever."""

from __future__ import annotations

import pytest

from pipeline.core.captions import find_defect, read_caption


def test_the_page_keeps_its_quotes_and_the_normalised_form_has_ascii_ones() -> None:
    caption = read_caption("a store front that has the word ‘openai’ on “it”")
    assert caption.caption == "a store front that has the word ‘openai’ on “it”"
    assert caption.normalized == "a store front that has the word 'openai' on \"it\""


@pytest.mark.parametrize(
    "spelling",
    ["a café", "a cafe\u0301", " a\tcafé ", "a\u00a0café\n", "A CAFÉ", "a  café"],
)
def test_spellings_of_one_caption_have_one_id(spelling: str) -> None:
    assert read_caption(spelling).caption_id == read_caption("a café").caption_id


UNSEEN = {
    "NUL": "\0",
    "escape": "\x1b",
    "delete": "\x7f",
    "C1 control": "\x9b",
    "soft hyphen": "\u00ad",
    "zero-width space": "\u200b",
    "zero-width non-joiner": "\u200c",
    "zero-width joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "left-to-right mark": "\u200e",
    "right-to-left mark": "\u200f",
    "override": "\u202e",
    "isolate": "\u2066",
    "Arabic letter mark": "\u061c",
}


@pytest.mark.parametrize("mark", UNSEEN.values(), ids=UNSEEN)
def test_unseen_characters_are_kept_in_the_caption_and_left_out_of_the_normalised_one(
    mark: str,
) -> None:
    caption = read_caption(f"a {mark}red c{mark}at{mark}")
    assert caption.caption == f"a {mark}red c{mark}at{mark}"
    assert caption.normalized == "a red cat"
    assert caption.caption_id == read_caption("a red cat").caption_id


def test_a_caption_of_unseen_characters_is_empty() -> None:
    assert find_defect(read_caption("\u200b \0\u202e").caption) == "the caption is empty"


@pytest.mark.parametrize("text", ["a heart \u2764\ufe0f", "a flag \U0001f3f4\U000e0067\U000e007f"])
def test_characters_that_select_another_emoji_stay(text: str) -> None:
    assert read_caption(text).normalized == text


def test_words_separated_by_a_mark_and_a_space_stay_two() -> None:
    assert read_caption("red\u200b \u200bcat").normalized == "red cat"


def test_the_id_is_stable_forever() -> None:
    assert read_caption("an illustration of a baby daikon").caption_id == "339ccff0bdc11573"


@pytest.mark.parametrize("text", [None, "", "  \n "])
def test_an_empty_caption_is_a_defect(text: str | None) -> None:
    assert find_defect(read_caption(text).caption) == "the caption is empty"


@pytest.mark.parametrize("text", ["a {} cat", "a cat made of {material}", "a } cat"])
def test_a_slot_left_open_is_a_defect(text: str) -> None:
    assert "never filled in" in str(find_defect(text))


def test_an_ordinary_caption_has_no_defect() -> None:
    assert find_defect("a cat (with a hat), 50% off [sic]") is None


def test_a_caption_is_shown_in_composed_characters() -> None:
    assert read_caption("a cafe\u0301").caption == "a caf\u00e9"
    assert read_caption("a caf\u00e9").caption == "a caf\u00e9"


@pytest.mark.parametrize("caption", ["a {} cat", "a { cat", "a cat}"])
def test_a_caption_with_a_brace_has_a_slot_that_was_not_filled_in(caption: str) -> None:
    assert find_defect(caption) == f"a slot was never filled in: {caption}"
    assert find_defect("a cat") is None
