"""The page in its designs, read with an independent parser: captions, choices, images, keys."""

from __future__ import annotations

import json
from itertools import product
from typing import Any, get_args

import pytest
from bs4 import BeautifulSoup, Tag

from pipeline.demo.replica.config import PageDesign, ReplicaConfig
from pipeline.demo.replica.holdings import Holdings
from pipeline.demo.replica.html import render_page
from scrapers.sources.dalleblog.captions import Section, fold
from scrapers.sources.dalleblog.urls import parse_sample_url

CDN = "http://127.0.0.1:1/dall-e/v2"
SMALL = ("relative_positions", "product_design", "emojis", "bedroom_design", "timelines", "rpm")


@pytest.fixture(scope="module")
def holdings() -> Holdings:
    return Holdings(ReplicaConfig(shown_captions=20, sections=SMALL))


def soup_of(holdings: Holdings, design: PageDesign) -> BeautifulSoup:
    return BeautifulSoup(render_page(holdings, design=design, cdn=CDN), "lxml")


def captions_of(line: Tag) -> set[str]:
    """Every text that a line can show: all combinations of its choices, with linked ones together."""
    options = {
        str(select["name"]): [option.text for option in select.find_all("option")]
        for select in line.find_all("select")
    }
    pieces = [
        piece["name"] if isinstance(piece, Tag) else str(piece)
        for piece in line.children
    ]  # fmt: skip
    return {
        fold("".join(dict(zip(options, chosen, strict=True)).get(str(p), str(p)) for p in pieces))
        for chosen in product(*options.values())
    }


@pytest.mark.parametrize(
    "name", ["relative_positions", "product_design", "emojis", "bedroom_design"]
)
def test_the_choices_of_2021_make_every_caption_as_written(holdings: Holdings, name: str) -> None:
    section = next(section for section in holdings.sections if section.name == name)
    tag = soup_of(holdings, "2021").find_all("section")[SMALL_ORDER.index(name)]
    assert captions_of(tag.p) == {forms[-1] for forms in section.captions()}


SMALL_ORDER = [s.name for s in Holdings(ReplicaConfig(sections=SMALL)).sections]


def test_a_slot_that_occurs_twice_is_one_linked_choice(holdings: Holdings) -> None:
    tag = soup_of(holdings, "2021").find_all("section")[SMALL_ORDER.index("product_design")]
    names = [str(select["name"]) for select in tag.p.find_all("select")]
    assert len(names) == 5
    assert len(set(names)) == 3


def test_the_images_of_2021_belong_to_the_chosen_caption(holdings: Holdings) -> None:
    for tag, section in zip(
        soup_of(holdings, "2021").find_all("section"), holdings.sections, strict=True
    ):
        if section.name in ("timelines", "rpm"):
            continue
        for select in tag.p.find_all("select"):
            chosen = select.find("option", selected=True)
            select.replace_with(chosen.text.lower())
        url = parse_sample_url(tag.div.img["src"])
        pictures = [p for p in map(_sample, tag.find_all("img")) if p is not None]
        assert url is None or pictures[0] == url.key
        entry = holdings.find(section.name, pictures[0])
        assert entry is not None
        assert section.match(fold(tag.p.text)) == section.match(entry.caption)


def _sample(image: Tag) -> str | None:
    url = parse_sample_url(str(image["src"]))
    return None if url is None else url.key


def test_a_spread_slot_is_a_row_of_labelled_images(holdings: Holdings) -> None:
    tag = soup_of(holdings, "2021").find_all("section")[SMALL_ORDER.index("timelines")]
    labels = [figure.figcaption.text for figure in tag.find_all("figure")[:15]]
    assert labels[:2] == ["1900", "1910s"]
    assert len(tag.p.find_all("select")) == 1
    assert "…" in tag.p.text


def test_labels_have_the_case_of_the_page_and_captions_are_lower_case() -> None:
    holdings = Holdings(ReplicaConfig(sections=("rotating_head",)))
    soup = soup_of(holdings, "2021")
    assert "Alexander the Great" in [option.text for option in soup.find_all("option")]
    assert "a photograph of a bust of alexander the great" in [
        f.text for f in soup.find_all("figcaption")
    ]


def test_image_prompts_are_shown_where_the_catalogue_has_them() -> None:
    holdings = Holdings(ReplicaConfig(sections=("bedroom_design", "emojis"), shown_captions=2))
    sources = [str(image["src"]) for image in soup_of(holdings, "2021").find_all("img")]
    assert [s for s in sources if "image_prompts" in s] == [
        f"{CDN}/image_prompts/bedroom_design.png"
    ]


def test_next_has_templates_options_and_keys_in_its_script(holdings: Holdings) -> None:
    script = soup_of(holdings, "next").find("script", id="__NEXT_DATA__")
    assert isinstance(script, Tag)
    visuals: list[dict[str, Any]] = json.loads(script.text)["props"]["pageProps"]["visuals"]
    assert [visual["section"] for visual in visuals] == SMALL_ORDER
    for visual, section in zip(visuals, holdings.sections, strict=True):
        assert visual["template"] == section.template
        assert _lower(visual["slots"]) == {s: list(o) for s, o in section.slots.items()}


def _lower(slots: dict[str, list[str]]) -> dict[str, list[str]]:
    return {slot: [option.lower() for option in options] for slot, options in slots.items()}


def test_plain_has_text_and_relative_image_urls_and_no_choices(holdings: Holdings) -> None:
    text = render_page(holdings, design="plain", cdn="/dall-e/v2")
    soup = BeautifulSoup(text, "lxml")
    assert not soup.find_all("select")
    assert all(str(image["src"]).startswith("/dall-e/v2/") for image in soup.find_all("img"))
    assert len(soup.find_all("p")) > 100


@pytest.mark.parametrize("design", get_args(PageDesign))
def test_every_shown_key_that_cannot_be_computed_is_on_the_page(
    holdings: Holdings, design: PageDesign
) -> None:
    text = render_page(holdings, design=design, cdn=CDN)
    for section in _hashed(holdings):
        assert all(entry.key in text for entry in holdings.shown(section.name))
        hidden = {e.key for e in holdings.entries(section.name)}
        hidden -= {e.key for e in holdings.shown(section.name)}
        assert not any(key in text for key in hidden)


def _hashed(holdings: Holdings) -> list[Section]:
    return [section for section in holdings.sections if section.key in ("hex128", "uint32")]
