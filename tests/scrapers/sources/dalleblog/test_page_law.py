"""A caption never goes to another image: a law, over pages that nobody has thought of."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.core.errors import SourceError
from scrapers.sources.dalleblog.captions import fold, load_catalogue
from scrapers.sources.dalleblog.page import read_page

CDN = "https://cdn.openai.com/dall-e/v2"
# Texts of many languages and looks; most are no captions by any rule of form.
SAID = (
    "Blue sphere on a glass table",
    "blue sphere",
    "X",
    "玻璃桌上的蓝色球体",
    "ガラスのテーブルの上の青い球",
    "Синяя сфера на стеклянном столе",
    "كرة زرقاء على طاولة زجاجية",
    "Kugel; 3 × größer – „blau“",
    "a photo of the food of china",
    "an illustration of a baby daikon radish in a tutu walking a dog",
    "1900",
    "🐧🎈",
    "{thing}",
)
SECTIONS = ("things", "countries", "anthropomorphism", "timelines")
LAWFUL = settings(
    deadline=None,
    database=None,
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=True,
)


@dataclass
class Page:
    """A page as it is written: what each image may be called, and what it must be called."""

    may: dict[str, set[str]] = field(default_factory=dict)
    must: dict[str, str] = field(default_factory=dict)
    free: set[str] = field(default_factory=set)
    around: str | None = None  # the figcaption of the figure that is being written
    texts: int = 0

    def say(self, text: str) -> str:
        """A text that no other is."""
        self.texts += 1
        return f"{text} no{self.texts}"

    def key(self) -> str:
        return f"{len(self.may) + 1:032x}"


def inline(text: str) -> str:
    return f"<b>{escape(text[:3])}</b>{escape(text[3:])}"


def image(page: Page, draw: st.DrawFn, *, own: str | None) -> str:
    """An image whose card says `own` of it, or nothing; in a figure with a caption it has that."""
    key, section = page.key(), draw(st.sampled_from(SECTIONS))
    alt = draw(st.sampled_from(["", "", "image", "said"]))
    said = page.say(draw(st.sampled_from(SAID))) if alt == "said" else None
    page.may[key] = {text for text in (own, said, page.around) if text}
    if page.around:
        page.must[key] = page.around
    elif said and section == "things":
        page.must[key] = said
    tag = f'<img src="{CDN}/samples/{section}/{key}_0.png" alt="{escape(said or alt)}">'
    wraps = ("{}", "<a href='#'>{}</a>", "<div><span>{}</span></div>", "<picture>{}</picture>")
    return draw(st.sampled_from(wraps)).format(tag)


def figure(page: Page, draw: st.DrawFn) -> str:
    """A figure with a figcaption before or behind its image, or none; other figures may be in it."""
    own = page.say(draw(st.sampled_from(SAID))) if draw(st.booleans()) else None
    before, page.around = page.around, own
    tag, attributes = draw(st.sampled_from([("figure", ""), ("div", ' role="figure"')]))
    parts = [image(page, draw, own=None)]
    parts += [pieces(page, draw)] if draw(st.integers(0, 4)) == 4 else []
    parts += [f"<p>{inline(page.say('beside'))}</p>"] if own and draw(st.booleans()) else []
    if own:
        caption = f"<figcaption>{inline(own)}</figcaption>"
        parts = [caption, *parts] if draw(st.booleans()) else [*parts, caption]
    page.around = before
    return f"<{tag}{attributes}>{''.join(parts)}</{tag}>"


def card(page: Page, draw: st.DrawFn) -> str:
    """An element of any kind around an image and a text, or around one of them."""
    own = page.say(draw(st.sampled_from(SAID))) if draw(st.booleans()) else None
    parts = [image(page, draw, own=own)]
    if own:
        text = draw(st.sampled_from(["<p>{}</p>", "<div>{}</div>", "<small>{}</small>"]))
        parts.insert(draw(st.integers(0, 1)), text.format(inline(own)))
    tag = draw(st.sampled_from(["div", "li", "article", "a", "section"]))
    return f"<{tag}>{''.join(parts)}</{tag}>"


def bare(page: Page, draw: st.DrawFn) -> str:
    """An image and a text with nothing around them, or one of them."""
    own = page.say(draw(st.sampled_from(SAID))) if draw(st.booleans()) else None
    parts = [image(page, draw, own=own)]
    if own:
        parts.insert(draw(st.integers(0, 1)), f"<p>{inline(own)}</p>")
    return "".join(parts)


def prose(page: Page, draw: st.DrawFn) -> str:
    text = page.say(draw(st.sampled_from(SAID)))
    page.free.add(text)
    tag = draw(st.sampled_from(["p", "h2", "li", "blockquote", "div"]))
    return f"<{tag}>{inline(text)}</{tag}>"


def choice(page: Page, draw: st.DrawFn) -> str:
    """A caption with a choice and its image behind it, in an element of their own or not."""
    own = page.say("an owl made of tin")
    options = "<option>gold</option><option selected>tin</option>"
    line = f"<p>{own.replace('tin', f'<select>{options}</select>')}</p>"
    inside = line + image(page, draw, own=own)
    return f"<div>{inside}</div>" if draw(st.booleans()) else inside


def table(page: Page, draw: st.DrawFn) -> str:
    """A row of images and a row of texts, or each image beside its text."""
    cells = []
    for _ in range(draw(st.integers(1, 3))):
        own = page.say(draw(st.sampled_from(SAID)))
        cells.append((f"<td>{image(page, draw, own=own)}</td>", f"<td>{inline(own)}</td>"))
    if draw(st.booleans()):
        cells = [tuple("".join(column) for column in zip(*cells, strict=True))]  # type: ignore[list-item]
    order = -1 if draw(st.booleans()) else 1
    rows = [row for one in cells for row in (one if len(cells) == 1 else ["".join(one)])]
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in rows[::order])}</table>"


def quote(page: Page, draw: st.DrawFn) -> str:
    """A figure of words alone."""
    text = page.say("an owl made of tin")
    options = "<select><option selected>tin<option>gold</select>"
    said = text.replace("tin", options) if draw(st.booleans()) else inline(text)
    inside = draw(st.sampled_from(["<p>{}</p>", "<figcaption>{}</figcaption>"])).format(said)
    return f"<figure>{inside}</figure>"


def other_image(page: Page, draw: st.DrawFn) -> str:
    text = page.say("of another image")
    return f"<figure><img src='/hero.jpg'><figcaption>{text}</figcaption></figure>"


def pieces(page: Page, draw: st.DrawFn) -> str:
    kinds = [figure, figure, card, bare, prose, choice, table, quote, other_image]
    found = [draw(st.sampled_from(kinds))(page, draw) for _ in range(draw(st.integers(1, 5)))]
    tag = draw(st.sampled_from(["", "", "div", "section", "ul"]))
    inside = "".join(found)
    return f"<{tag}>{inside}</{tag}>" if tag else inside


@st.composite
def pages(draw: st.DrawFn) -> tuple[str, Page]:
    page = Page()
    return "".join(pieces(page, draw) for _ in range(draw(st.integers(1, 3)))), page


def captions_of(html: str) -> dict[str, str]:
    """Caption by key, as the page is read."""
    try:
        content = read_page(html.encode(), base_url="https://x.org/", catalogue=load_catalogue())
    except SourceError:
        return {}
    return {
        one.address.key: one.caption for shown in content.sections for one in shown.section.given
    }


@LAWFUL
@given(pages())
def test_an_image_gets_the_text_of_its_figure_or_alt_and_none_of_another(
    drawn: tuple[str, Page],
) -> None:
    html, page = drawn
    found, keys_of = captions_of(html), Counter(page.must.values())
    for key, caption in found.items():
        assert caption in {fold(text) for text in page.may[key] | page.free}, html
    # A text over more keys is a headline.
    must = {key: fold(text) for key, text in page.must.items() if keys_of[text] <= 8}
    assert {key: found.get(key) for key in must} == must, html


# --- Data in scripts ----------------------------------------------------------------------------------


@st.composite
def objects(draw: st.DrawFn) -> Any:
    """An object tree in which every text and every image is another."""
    counts = {"texts": 0, "images": 0}

    def count(what: str) -> int:
        counts[what] += 1
        return counts[what]

    def value(depth: int) -> Any:
        if draw(st.integers(0, 3)) == 3 and depth < 3:
            return [value(depth + 1) for _ in range(draw(st.integers(0, 3)))]
        found: dict[str, Any] = {}
        if draw(st.booleans()):
            name = draw(st.sampled_from(["caption", "alt", "prompt", "x"]))
            found[name] = f"a text of number {count('texts')}"
        for name in ("src", "image"):
            if draw(st.integers(0, 2)) == 2:
                found[name] = f"{CDN}/samples/things/{count('images'):032x}_0.png"
        for name in ("items", "next") if depth < 3 else ():
            if draw(st.integers(0, 2)) == 2:
                found[name] = value(depth + 1)
        return found

    return value(0)


def strings(value: Any) -> list[str]:
    members = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    )
    return [value] if isinstance(value, str) else [text for one in members for text in strings(one)]


def images_of(value: Any, text: str) -> set[str]:
    """The images in the smallest object that holds a text and an image."""
    members = (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    )
    inner = [images_of(one, text) for one in members if text in strings(one)]
    here = {one.rpartition("/")[2][:32] for one in strings(value) if one.startswith(CDN)}
    return (inner[0] if inner else set()) or here


@LAWFUL
@given(objects())
@example({"caption": "a text of number 1", "src": f"{CDN}/samples/things/{1:032x}_0.png"})
def test_no_image_of_the_data_gets_a_text_of_another_object(value: Any) -> None:
    html = f'<script type="application/json">{json.dumps(value)}</script>'
    for key, caption in captions_of(html).items():
        assert key in images_of(value, caption), value
