"""One caption has one spelling and one id, for ever."""

from __future__ import annotations

import pytest

from pipeline.dedupe.captions import find_defect, read_caption


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


def test_the_id_is_stable_for_ever() -> None:
    assert read_caption("an illustration of a baby daikon").caption_id == "339ccff0bdc11573"


@pytest.mark.parametrize("text", [None, "", "  \n "])
def test_an_empty_caption_is_a_defect(text: str | None) -> None:
    assert find_defect(read_caption(text).caption) == "the caption is empty"


@pytest.mark.parametrize("text", ["a {} cat", "a cat made of {material}", "a } cat"])
def test_a_slot_left_open_is_a_defect(text: str) -> None:
    assert "never filled in" in str(find_defect(text))


def test_an_ordinary_caption_has_no_defect() -> None:
    assert find_defect("a cat (with a hat), 50% off [sic]") is None
