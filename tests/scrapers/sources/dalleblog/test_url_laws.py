"""The grammar of captions and URLs, there and back: laws over texts that nobody has thought of."""

from __future__ import annotations

import unicodedata

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.errors import SourceError
from scrapers.fetch.page_urls import resolve_url
from scrapers.sources.dalleblog.captions import fold, load_catalogue, plain_quotes
from scrapers.sources.dalleblog.urls import (
    base64_key,
    caption_of_key,
    is_plain_name,
    key_kind,
    parse_sample_url,
    sample_url,
    url_template,
)
from tests.helpers.laws import lawful

CDN = "https://cdn.test/dall-e/v2"
texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
sections = texts.filter(is_plain_name)
# Texts near the grammar: parts of addresses in any order.
near = st.lists(
    st.sampled_from(
        [
            "https://",
            "h.test",
            "/samples/",
            "/image_prompts/",
            "a",
            "_",
            "0",
            "31",
            ".png",
            ".jpg",
            "%2F",
            "..",
            "?x=1",
            "#f",
            "{rank}",
            "=",
            "+",
            "/",
            ":",
            "@",
            "[",
            "é",
            "\u2028",
            "%",
            " ",
        ]
    ),
    max_size=12,
).map("".join)
templates = [s for s in load_catalogue().sections if s.slots and not s.has_unfilled_slot]


@lawful(200)
@given(caption=texts, section=sections, rank=st.integers(0, 999_999))
@example(caption="so’s the cat", section="emojis", rank=0)
@example(caption="0", section="a", rank=0)
def test_a_caption_comes_back_from_its_url(caption: str, section: str, rank: int) -> None:
    key = base64_key(caption)
    url = sample_url(CDN, section, key, rank)
    parsed = parse_sample_url(url)
    assert parsed is not None
    assert (parsed.cdn, parsed.section, parsed.key, parsed.rank) == (CDN, section, key, rank)
    assert parsed.url() == url
    assert parsed.template == url_template(CDN, section, key)
    if key_kind(key) == "base64":
        assert parsed.caption == caption == caption_of_key(key)


@lawful(300)
@given(text=st.one_of(near, st.text(max_size=60)))
def test_any_text_is_taken_apart_or_refused_and_what_is_comes_back(text: str) -> None:
    parsed = parse_sample_url(text)
    if parsed is None:
        return
    again = parse_sample_url(parsed.url())
    assert again is not None
    assert again.identity == parsed.identity
    assert again.url() == parsed.url()
    assert is_plain_name(parsed.section)
    assert (parsed.caption is None) == (parsed.kind != "base64")


@lawful(100)
@given(key=st.one_of(st.text(max_size=30), texts.map(base64_key), st.integers(0, 2**33).map(str)))
def test_a_key_spells_a_caption_only_if_the_caption_spells_the_key(key: str) -> None:
    caption = caption_of_key(key)
    assert caption is None or base64_key(caption) == key
    if key_kind(key) == "base64":
        assert caption is not None
        assert all(unicodedata.category(letter) != "Cc" for letter in caption)


@lawful(100)
@given(key=st.text(max_size=3000), section=sections)
def test_a_template_is_short_enough_for_servers_or_refused(key: str, section: str) -> None:
    try:
        template = url_template(CDN, section, key)
    except SourceError:
        return
    assert len(template) <= 8000
    assert template.count("{rank}") == 1


@lawful(300)
@given(written=st.one_of(near, st.text(max_size=60)))
def test_a_url_is_resolved_once_and_for_all(written: str) -> None:
    found = resolve_url(written, "https://page.test/blog/dall-e/?q=1")
    if found is None:
        return
    assert found.startswith(("http://", "https://"))
    assert found.isascii()
    assert found.isprintable()
    assert "#" not in found
    assert resolve_url(found, "https://other.test/") == found


@lawful(200)
@given(data=st.data())
def test_a_template_knows_every_caption_that_it_makes(data: st.DataObject) -> None:
    section = data.draw(st.sampled_from(templates))
    chosen = {slot: data.draw(st.sampled_from(options)) for slot, options in section.slots.items()}
    forms = section.forms(chosen)
    assert 1 <= len(set(forms)) == len(forms) <= 2
    for form in forms:
        assert fold(form) == form
        for spelling in (form, plain_quotes(form)):
            found = section.match(spelling)
            assert found is not None
            assert form in section.forms(found)
    assert section.match(f"{forms[0]}x") is None
