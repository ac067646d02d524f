"""Templates → captions."""

from __future__ import annotations

import itertools

import pytest

from scrapers.sources.dalleblog.articles import article_for
from scrapers.sources.dalleblog.captions import Section, fold, load_catalogue, make_section


def section(template: str, article: str | None = None, **slots: tuple[str, ...]) -> Section:
    return make_section(name="s", key="base64", template=template, slots=slots, article=article)


def test_the_catalogue_makes_the_captions_it_counts() -> None:
    sections = load_catalogue().sections
    assert sum(s.num_captions for s in sections) == 27_862
    for one in sections:
        assert sum(1 for _ in one.captions()) == one.num_captions, one.name


def test_every_caption_of_the_catalogue_is_recognised_by_its_own_template() -> None:
    for one in load_catalogue().sections:
        for forms in itertools.islice(one.captions(), 0, None, 37):
            for caption in forms:
                chosen = one.match(caption)
                assert chosen is not None, caption
                assert caption in one.forms(chosen)


def test_a_slot_that_stands_twice_is_one_choice() -> None:
    two = section("a {x} made of {y}. a {x}, {y}.", x=("cat", "dog"), y=("tin",))
    assert [forms[0] for forms in two.captions()] == [
        "a cat made of tin. a cat, tin.",
        "a dog made of tin. a dog, tin.",
    ]
    assert two.match("a cat made of tin. a dog, tin.") is None


def test_the_agreeing_article_comes_first_and_the_written_one_second() -> None:
    one = section("an {p} in the style of an {t}", p=("armchair", "bench"), t=("owl", "cat"))
    assert list(one.captions()) == [
        ("an armchair in the style of an owl",),
        ("an armchair in the style of a cat", "an armchair in the style of an cat"),
        ("a bench in the style of an owl", "an bench in the style of an owl"),
        ("a bench in the style of a cat", "an bench in the style of an cat"),
    ]


def test_an_article_that_the_template_leaves_out_is_tried() -> None:
    one = section("a photo of {who} running", article="who", who=("cat", "owl", "the fox"))
    assert list(one.captions()) == [
        ("a photo of a cat running", "a photo of cat running"),
        ("a photo of an owl running", "a photo of owl running"),
        ("a photo of the fox running",),
    ]


def test_the_word_before_a_slot_is_an_article_only_as_a_word() -> None:
    one = section("the pizza {x} and banana {x}", x=("owl",))
    assert list(one.captions()) == [("the pizza owl and banana owl",)]


@pytest.mark.parametrize(
    ("article", "words"),
    [
        (
            "an",
            "armchair owl illustration isopod emu hourglass honest heirloom 8-bit 11 x-ray umbrella",
        ),
        ("an", "unimpressed uninteresting underwear mp3"),
        (
            "a",
            "bench ukiyo-e unicorn uniform useful european one-way onesie ufo house hedgehog 10 t-rex",
        ),
        ("a", "uganda university purse 1900s 110 118 utensil"),
    ],
)
def test_articles_follow_the_sound(article: str, words: str) -> None:
    for word in words.split():
        assert article_for(word) == article, word


def test_captions_are_lower_case_folded_and_keep_their_quotes() -> None:
    one = section(
        "A  bust of\n{Who}",
        who=("  Alexander the\u00a0Great ", "alexander the great", "St. John’s"),
    )
    assert [forms[0] for forms in one.captions()] == [
        "a bust of alexander the great",
        "a bust of st. john’s",
    ]
    assert one.match("a bust of st. john's") == {"who": "st. john’s"}


def test_a_slot_never_filled_is_never_asked_for() -> None:
    assert section("a {} in a {x}", x=("hat",)).num_captions == 0
    assert list(section("a {} in a {x}", x=("hat",)).captions()) == []
    assert list(section("a {y} in a {x}", x=("hat",)).captions()) == []
    partly = section("a {x}", x=("hat", "{}", "", "{y} cap"))
    assert list(partly.captions()) == [("a hat",)]


def test_ten_to_the_twelve_captions_are_counted_and_not_made() -> None:
    options = tuple(f"o{i}" for i in range(10_000))
    huge = section("{a} {b} {c}", a=options, b=options, c=options)
    assert huge.num_captions == 10**12
    assert next(huge.captions()) == ("o0 o0 o0",)


def test_folding_leaves_one_space() -> None:
    assert fold(" An  Owl\n‘Ok’ ") == "an owl ‘ok’"
