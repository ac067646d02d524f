"""The blog as a source: page and catalogue merged, chosen from, listed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, SourceError
from scrapers.source import CaptionPlan, Discovery, StartPage
from scrapers.sources.dalleblog.config import DalleBlogConfig
from scrapers.sources.dalleblog.source import DalleBlogSource
from scrapers.sources.dalleblog.urls import base64_key, parse_sample_url

CDN = "https://cdn.openai.com/dall-e/v2"
HEX = "0123456789abcdef0123456789abcdef"


def list_urls(discovery: Discovery) -> Iterator[tuple[str, str, int, str]]:
    """Section, caption, rank and address of every image, by the first form of each caption."""
    for plan in discovery.plans:
        form = plan.forms[0]
        for rank in plan.ranks:
            yield plan.section, form.caption, rank, form.url(rank)


def discover(html: str | None = None, **options: object) -> Discovery:
    values: dict[str, Any] = {"no_page": html is None, **options}
    source = DalleBlogSource(DalleBlogConfig(**values))
    url = source.page_url
    return source.discover(None if html is None else StartPage(body=html.encode(), url=url))


def plans(discovery: Discovery, section: str) -> list[CaptionPlan]:
    return [plan for plan in discovery.plans if plan.section == section]


# --- The catalogue alone -------------------------------------------------------------------------


def test_without_a_page_there_is_nothing_to_fetch_first() -> None:
    assert DalleBlogSource(DalleBlogConfig(no_page=True)).start_url is None
    assert DalleBlogSource(DalleBlogConfig()).start_url == "https://openai.com/blog/dall-e/"
    custom = DalleBlogConfig(page_url="http://127.0.0.1:9/blog/dall-e/")
    assert DalleBlogSource(custom).start_url == custom.page_url


def test_the_catalogue_alone_offers_what_can_be_computed_and_its_samples() -> None:
    found = discover()
    assert found.num_captions == sum(1 for _ in found.plans)
    assert found.num_urls == sum(1 for _ in list_urls(found))
    counts = {s.name: (s.captions, s.shown) for s in found.sections}
    assert counts["location_and_setting"] == (5040, False)
    assert counts["countries"] == (1, False)
    assert found.differences == ()


def test_plans_can_be_iterated_again_and_are_the_same() -> None:
    found = discover(limit=50)
    assert list(found.plans) == list(found.plans)


def test_every_listed_address_is_one_image_and_says_its_caption() -> None:
    seen = set()
    for section, caption, rank, url in list_urls(discover(sections=("product_design", "emojis"))):
        parsed = parse_sample_url(url)
        assert parsed is not None
        assert (parsed.section, parsed.caption, parsed.rank) == (section, caption, rank)
        seen.add(url)
    assert len(seen) == (627 + 396) * 32


def test_forms_agree_first_and_are_as_written_second() -> None:
    first = plans(discover(sections=("product_design",)), "product_design")[1]
    assert [form.caption.split(" in ")[0] for form in first.forms] == ["an armchair"] * len(
        first.forms
    )
    bench = next(
        p for p in discover(sections=("product_design",)).plans if "bench" in p.forms[0].caption
    )
    assert [form.caption[:9] for form in bench.forms] == ["a bench i", "an bench "]
    assert base64_key(bench.forms[1].caption) in bench.forms[1].url(7)
    assert bench.forms[1].url(7).endswith("_7.png")


def test_a_hand_made_name_serves_what_was_linked_and_no_more() -> None:
    (plan,) = plans(discover(), "rpm")
    assert plan.ranks == (3,)
    assert plan.forms[0].url(3) == f"{CDN}/samples/rpm/set_b_masked_3.png"
    assert plan.masked


def test_what_was_primed_is_masked() -> None:
    masked = {plan.section for plan in discover().plans if plan.masked}
    assert {"bedroom_design", "female_fashion_design", "im2im_animal", "landmarks"} <= masked
    assert not masked & {"emojis", "countries"}


def test_the_whole_catalogue_is_listed() -> None:
    assert sum(1 for _ in list_urls(discover())) > 390_000


# --- Page and catalogue ----------------------------------------------------------------------------


PAGE = f"""
<p>a cross-section view of a <select><option>Walnut<option>geode’s core</select></p>
<img src="/dall-e/v2/samples/cross_sections/{base64_key("a cross-section view of a walnut")}_0.png">
<p>a photo of the <select><option>food of</select> <select><option>China</select></p>
<img src="/dall-e/v2/samples/countries/752777210_0.png">
<p>a {{}} of <select><option>tin</select></p>
<img src="/dall-e/v2/samples/new/{base64_key("a {} of tin")}_0.png">
"""


def test_page_and_catalogue_are_merged_and_their_differences_told() -> None:
    found = discover(PAGE, page_url="http://127.0.0.1:8000/blog/dall-e/")
    sections = {section.name: section for section in found.sections}
    assert (sections["cross_sections"].shown, sections["cross_sections"].captions) == (True, 19)
    assert not sections["emojis"].shown
    assert sections["new"].captions == 0
    text = " ".join(found.differences)
    assert "only the page has 'geode’s core'" in text
    assert "only the catalogue has 'airplane', 'beehive'" in text
    assert "Not in the catalogue, taken from the page: new." in text
    assert "Not on the page, taken from the catalogue: material, " in text
    assert "The page shows images of http://127.0.0.1:8000/dall-e/v2" in text


def test_the_host_that_the_page_shows_is_asked() -> None:
    found = discover(PAGE, page_url="http://127.0.0.1:8000/blog/dall-e/")
    assert {form.url(0).split("/samples/")[0] for p in found.plans for form in p.forms} == {
        "http://127.0.0.1:8000/dall-e/v2"
    }
    chosen = discover(PAGE, cdn_url="http://mirror:1/x/")
    assert {form.url(0).split("/samples/")[0] for p in chosen.plans for form in p.forms} == {
        "http://mirror:1/x"
    }


def test_one_image_opens_all_ranks_of_its_caption() -> None:
    both = plans(discover(PAGE, page_url="http://h/"), "countries")
    assert [plan.ranks for plan in both] == [tuple(range(32))] * 2
    assert both[0].forms[0].url(31) == "http://h/dall-e/v2/samples/countries/752777210_31.png"
    assert both[0].forms[0].caption == "a photo of the food of china"


def test_frames_beyond_32_are_asked_for() -> None:
    html = """<p>a photograph of a bust of <select><option>Homer</select></p>
        <img src="/samples/rotating_head/1980579866_40.png">"""
    (plan,) = plans(discover(html), "rotating_head")
    assert plan.ranks == (*range(32), 40)


def test_the_quotes_of_the_page_make_the_addresses() -> None:
    html = "<p>a macro photograph of <select><option>Knife’s edge<option>leaf</select></p>"
    captions = [plan.forms[0].caption for plan in plans(discover(html), "macro_photos")]
    assert "a macro photograph of knife’s edge" in captions
    assert "a macro photograph of knife's edge" not in captions
    assert len(captions) == 19


def test_what_is_computed_is_encoded_as_the_page_encodes() -> None:
    key = base64_key("a macro photograph of brain coral?")
    escaped = key.replace("=", "%3D").replace("/", "%2F")
    assert escaped != key
    html = "<p>a macro photograph of <select><option>leaf</select></p>"
    html += f"<img src='/x/samples/macro_photos/{escaped}_0.png'>"
    found = [plan.forms[0] for plan in plans(discover(html, page_url="http://h/"), "macro_photos")]
    assert found[-1].url(3) == f"http://h/x/samples/macro_photos/{escaped}_3.png"
    others = {form.url_template for form in found if "%3D" in form.url_template}
    assert len(others) > 1
    assert not any("=" in form.url_template for form in found)


def test_a_caption_is_asked_for_at_the_url_that_the_page_wrote() -> None:
    key = base64_key("a macro photograph of leaf")
    html = "<p>a macro photograph of <select><option>leaf</select></p>"
    html += f"<img src='/samples/macro_photos/{key}_0.png?v=2'>"
    urls = {
        plan.forms[0].caption: plan.forms[0].url(1)
        for plan in plans(discover(html, page_url="http://h/"), "macro_photos")
    }
    assert urls["a macro photograph of leaf"] == f"http://h/samples/macro_photos/{key}_1.png?v=2"
    assert urls["a macro photograph of brain coral"].endswith("_1.png")
    assert len(urls) == 19


def test_a_query_for_each_image_serves_no_other() -> None:
    key = base64_key("a macro photograph of leaf")
    images = "".join(f"<img src='/samples/macro_photos/{key}_{r}.png?s={r}'>" for r in (0, 1))
    found = discover(f"<p>a macro photograph of <select><option>leaf</select></p>{images}")
    here = [p for p in plans(found, "macro_photos") if p.forms[0].caption.endswith("leaf")]
    assert [(plan.ranks, plan.forms[0].url(plan.ranks[0])[-8:]) for plan in here] == [
        ((0,), "0.png?s=0"[-8:]),
        ((1,), "1.png?s=1"[-8:]),
    ]
    assert found.num_captions == sum(1 for _ in found.plans)
    assert found.num_urls == sum(len(plan.ranks) for plan in found.plans)


def test_user_and_password_stand_in_no_url_of_the_plans() -> None:
    html = f"<img alt='an owl' src='http://a:b@h:8/samples/new/{HEX}_0.png'>"
    found = discover(html, page_url="http://me:pw@blog/", cdn_url=None)
    assert found.credentials == {"http://h:8": ("a", "b")}  # the client has those of --page-url
    assert [p.forms[0].url(0) for p in plans(found, "new")] == [
        f"http://h:8/samples/new/{HEX}_0.png"
    ]
    assert "pw" not in repr(found)


@pytest.mark.parametrize("cdn_url", ["https://h/v2?sv=1", "https://me:s3cret@h/?", "https://h/#x"])
def test_a_folder_of_images_has_no_query(cdn_url: str) -> None:
    with pytest.raises(ConfigError, match=r"--cdn-url is '.*': a folder has no query") as raised:
        discover(cdn_url=cdn_url)
    assert "s3cret" not in str(raised.value)


def test_a_saved_page_is_read_without_fetching(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    file.write_text(PAGE, encoding="utf-8")
    source = DalleBlogSource(DalleBlogConfig(page=file))
    assert source.start_url is None
    assert len(plans(source.discover(None), "countries")) == 2
    with pytest.raises(ConfigError, match="can't be read"):
        discover(None, no_page=False, page=tmp_path / "none.html")


def test_a_known_section_with_another_template_offers_both_and_tells() -> None:
    html = f"""<p>an emoji of <select><option>wa<option>wb</select></p>
        <img src="{CDN}/samples/emojis/{base64_key("an emoji of wa")}_0.png">"""
    found = discover(html)
    captions = [plan.forms[0].caption for plan in plans(found, "emojis")]
    assert captions[-2:] == ["an emoji of wa", "an emoji of wb"]
    assert len(captions) == len(set(captions)) == 396 + 2
    assert "the page has 'an emoji of {slot1}', which the catalogue's" in " ".join(
        found.differences
    )


@pytest.mark.parametrize(("section", "known"), [("new", 0), ("emojis", 396)])
def test_a_trillion_captions_are_refused_with_their_number_unless_limited(
    section: str, known: int
) -> None:
    options = "".join(f"<option>thing{i}</option>" for i in range(1_000))
    selects = " and ".join(f"<select name=s{i}>{options}</select>" for i in range(4))
    key = base64_key("one thing0 and thing0 and thing0 and thing0 here")
    html = f"<p>one {selects} here</p><img src='{CDN}/samples/{section}/{key}_0.png'>"
    refusal = rf"1,000,000,0\d\d,\d+ captions.*section '{section}'.*--limit"
    with pytest.raises(SourceError, match=refusal):
        discover(html)
    limited = discover(html, sections=(section,), limit=known + 3)
    assert [p.forms[0].caption for p in limited.plans][known:] == [
        f"one thing0 and thing0 and thing0 and thing{i} here" for i in range(3)
    ]
    assert (limited.num_captions, limited.num_urls) == (known + 3, (known + 3) * 32)


# --- Choosing ------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_captions_in_order() -> None:
    found = discover(limit=30)
    assert (found.num_captions, found.num_urls) == (30, 960)
    assert list(found.plans) == list(islice(discover().plans, 30))
    assert sum(section.captions for section in found.sections) == 30


def test_a_section_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigError, match=r"'emoji'.*emojis"):
        discover(sections=("emoji",))


def test_captions_of_a_file_are_taken_in_its_order(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text(
        "\ufeffA photo of the food of China\n\n"
        "a cross-section view of an walnut\r\n"
        "emojis\ta caption of my own\n"
        "a photo of the food of china\n",
        encoding="utf-8",
    )
    found = discover(captions=file)
    assert [(p.section, p.forms[0].caption) for p in found.plans] == [
        ("countries", "a photo of the food of china"),
        ("cross_sections", "a cross-section view of a walnut"),
        ("emojis", "a caption of my own"),
    ]
    assert found.num_urls == 96
    assert [s.name for s in found.sections] == ["cross_sections", "emojis", "countries"]
    assert discover(captions=file, limit=1).num_captions == 1


def test_a_line_of_captions_ends_at_a_newline_alone(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    file.write_text("emojis\ta cat\u2028a dog\fa mouse\n", encoding="utf-8")
    (plan,) = discover(captions=file).plans
    assert plan.forms[0].caption == "a cat a dog a mouse"
    file.write_bytes(b"emojis\ta cat\nemojis\ta caf\xe9\n")
    with pytest.raises(
        ConfigError, match=r"captions\.txt can't be read: line 2 holds the byte 0xe9"
    ):
        discover(captions=file)


def test_unknown_captions_are_an_error_that_lists_the_first(tmp_path: Path) -> None:
    file = tmp_path / "captions.txt"
    lines = [
        "no such caption",
        "countries\ta photo of the food of peru",
        "a {} cat",
        "emojis\t" + "x" * 9_000,
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    said = r"4 captions .*line 1: 'no such caption'; line 2.*line 4.*too long for a URL: 9,007"
    with pytest.raises(ConfigError, match=said):
        discover(captions=file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        discover(captions=file)


@pytest.mark.parametrize("options", [{"limit": 0}, {"cdn_url": "ftp://x"}, {"page_url": "blog"}])
def test_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        discover(None, **options)
