"""The protocol of sources: how they are declared, found and opened, and what an item becomes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.core.errors import ConfigError, SourceError
from scrapers.config import ScrapeConfig
from scrapers.source import CaptionForm, Discovery, Item, find_source, open_source, source_kinds
from scrapers.sources.dalleblog.config import DalleBlogConfig


def test_a_form_fills_in_the_rank_and_nothing_else() -> None:
    form = CaptionForm(caption="c", url_template="http://h/%7Brank%7D/{0}%s/k_{rank}.png")
    assert form.url(31) == "http://h/%7Brank%7D/{0}%s/k_31.png"
    assert CaptionForm(caption="c", url_template="http://h/k.png").url(3) == "http://h/k.png"


def test_sources_are_found_by_name_and_opened_with_their_config() -> None:
    assert tuple(source_kinds()) == tuple(sorted(source_kinds()))
    assert {"dalleblog", "folder"} <= source_kinds().keys()
    assert find_source("dalleblog").config is DalleBlogConfig
    assert open_source(DalleBlogConfig()).name == "dalleblog"
    with pytest.raises(ConfigError, match=r"no source 'dalle'.*dalleblog"):
        open_source(ScrapeConfig(source="dalle"))


def test_declaring_the_sources_imports_no_parser() -> None:
    code = (
        "import sys, scrapers.source as s; s.source_kinds();"
        "print([m for m in sys.modules if m in ('lxml', 'bs4', 'pyarrow', 'uvloop')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_url_of_an_item_is_one_image_whatever_braces_it_has() -> None:
    plan = Item(
        url="http://h/{rank}.png", captions=("a", "b"), rank=7, extra={"z": 1, "a": "ü"}
    ).plan()
    assert plan.forms == (CaptionForm(caption="a", url_template="http://h/%7Brank%7D.png"),)
    assert (plan.captions, plan.rank, plan.ranks) == (("b",), 7, (0,))
    assert plan.extra == '{"a": "ü", "z": 1}'


@pytest.mark.parametrize(
    ("url", "captions", "message"),
    [
        ("/1.png", ("a",), "'/1.png' is not a URL"),
        ("ftp://h/1.png", ("a",), "expected http"),
        ("http://me:secret@h/1.png", (), "http://h/1.png has no caption"),
    ],
)
def test_an_item_without_url_or_caption_is_refused(
    url: str, captions: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        Item(url=url, captions=captions).plan()
    assert "secret" not in str(caught.value)


def test_items_are_counted_by_group_up_to_the_limit() -> None:
    items = [Item(url=f"http://h/{n}.png", captions=("c",), group=f"g{n % 2}") for n in range(5)]
    found = Discovery.of(lambda: items, limit=4)
    assert (found.num_captions, found.num_urls) == (4, 4)
    assert [(section.name, section.captions) for section in found.sections] == [
        ("g0", 2),
        ("g1", 2),
    ]
    assert len(list(found.plans)) == len(list(found.plans)) == 4
