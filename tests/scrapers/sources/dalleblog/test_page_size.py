"""Pages that are large, or made to cost time and memory."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from pipeline.core.errors import SourceError
from scrapers.sources.dalleblog import page_items
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.page import PageContent, read_page
from scrapers.sources.dalleblog.urls import base64_key

CDN = "https://cdn.openai.com/dall-e/v2"
BRAIN = "<p>a cross-section view of a brain</p>"
# Much is asked of a busy machine; what grows with the square of the page takes minutes.
MOST_CPU_S = 45.0


def read(html: str) -> PageContent:
    return read_page(html.encode(), base_url="https://x.org/", catalogue=load_catalogue())


def image(section: str, key: str) -> str:
    return f'<img src="{CDN}/samples/{section}/{key}_0.png">'


def objects(content: PageContent) -> set[str]:
    """The options of `cross_sections` that a page shows."""
    return {option for shown in content.sections for option in shown.section.slots["object"]}


def prose(lines: int) -> str:
    return "<p>so we trained a model of words and images</p>" * lines


def test_a_caption_amid_long_prose_is_found_wherever_it_stands() -> None:
    walnut = "<p>a cross-section view of a walnut</p>"
    assert objects(read(prose(4_000) + BRAIN + prose(4_000) + walnut)) == {"brain", "walnut"}
    assert objects(read(walnut + prose(2_400) + BRAIN + prose(4_000))) == {"brain", "walnut"}


def test_long_prose_takes_no_caption_from_its_picture() -> None:
    shown = f"<div><p>an unheard-of caption of its own</p>{image('unheard_of', '7' * 8)}</div>"
    content = read(prose(9_000) + shown + prose(9_000))
    given = [g.caption for s in content.sections for g in s.section.given]
    assert given == ["an unheard-of caption of its own"]


def test_a_figure_around_long_prose_keeps_its_caption_and_pictures_together() -> None:
    figure = (
        f"<figure>{image('countries', '7')}<figcaption>a photo of the food of china</figcaption>"
    )
    html = prose(5_000) + figure + prose(5_000) + "</figure>" + prose(5_000)
    assert [g.caption for s in read(html).sections for g in s.section.given] == [
        "a photo of the food of china"
    ]


@pytest.mark.parametrize(
    ("html", "what"),
    [
        ("<p>a <select><option>b</select> c</p>" * 1_001, "1,000 choices"),
        ("<div>" * 20_001, "20,000 elements nested"),
        ("<b>x" * 600_001, "600,000 tags"),
        ("".join(image(f"section_{n}", "7") for n in range(1_001)), "1,000 sections"),
    ],
)
def test_what_no_blog_post_has_is_refused_with_its_number(html: str, what: str) -> None:
    with pytest.raises(SourceError, match=rf"more than {what}.*--page FILE"):
        read(html)


@pytest.mark.parametrize(
    ("limit", "before", "one", "behind", "what"),
    [
        ("_MAX_OPTIONS", "<p>a <select>", "<option>b", "</select> c</p>", "options"),
        ("_MAX_IMAGES", "", image("countries", "7"), "", "images"),
    ],
)
def test_more_options_or_images_than_the_limit_are_refused(
    monkeypatch: pytest.MonkeyPatch, limit: str, before: str, one: str, behind: str, what: str
) -> None:
    assert getattr(page_items, limit) == 100_000
    monkeypatch.setattr(page_items, limit, 1_000)
    with pytest.raises(SourceError, match=rf"more than 1,000 {what}.*--page FILE"):
        read(before + one * 1_001 + behind)
    read(BRAIN + before + one * 1_000 + behind)


@pytest.mark.parametrize(
    "html",
    [
        pytest.param("<p>a <select><option>b</select> c</p>" * 1_000, marks=pytest.mark.slow),
        pytest.param(
            f"<p>a <select>{'<option>b' * 100_000}</select> c</p>", marks=pytest.mark.slow
        ),
        "< " * (600_000 - BRAIN.count("<")),
        "".join(image(f"section_{n}", "7") for n in range(1_000)),
    ],
    ids=["choices", "options", "tags", "sections"],
)
def test_a_page_with_as_much_as_it_may_have_is_read(html: str) -> None:
    assert objects(read(html + BRAIN)) == {"brain"}


def captions_with_keys() -> str:
    texts = (f"a painting of a {n} sitting in a field" for n in range(4_000))
    return "".join(f"<p>{text}</p>{image('unusual_media', base64_key(text))}" for text in texts)


def captions_with_hashes() -> str:
    texts = (f"an illustration of a baby {n} in a tutu walking a dog" for n in range(4_000))
    return "".join(
        f"<p>{text}</p>{image('anthropomorphism', f'{n:032x}')}" for n, text in enumerate(texts)
    )


@pytest.mark.parametrize(
    "html",
    [
        captions_with_keys(),
        captions_with_hashes(),
        "".join(image("anthropomorphism", f"{n:032x}") for n in range(10_000)),
        "".join(f"<p>a <select><option>cat{n}</select> made of glass</p>" for n in range(500)),
        "<script>" + "function a(b){return g(b,{c:1},[d,e])}\n" * 100_000 + "</script>",
        '<script>f({"a":b},[1,c]);\n' * 100_000 + "</script>",
    ],
    ids=["captions", "hashes", "pictures", "choices", "program", "broken data"],
)
def test_time_grows_with_the_page_and_not_with_its_square(html: str) -> None:
    started = time.process_time()
    assert objects_or_all(BRAIN + html)
    assert time.process_time() - started < MOST_CPU_S


def objects_or_all(html: str) -> bool:
    return any(shown.section.name == "cross_sections" for shown in read(html).sections)


# As many bytes, and as many tags, as a page may have.
_LARGE = {
    "prose": "<p>some lower case prose that looks like a caption</p>\n",
    "elements": "<div><b>word</b></div>",
}
_READ = """
import sys
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.page import read_page
part, brain, size = sys.argv[1].encode(), sys.argv[2].encode(), int(sys.argv[3])
body = part * (size // len(part)) + brain
content = read_page(body, base_url="https://x.org/", catalogue=load_catalogue())
assert [shown.section.name for shown in content.sections] == ["cross_sections"]
with open("/proc/self/status") as status:  # getrusage would count what the parent held, too
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("prose", 15_900_000), ("elements", 3_290_000)])
def test_the_largest_page_is_read_in_bounded_memory(kind: str, size: int) -> None:
    command = [sys.executable, "-c", _READ, _LARGE[kind], BRAIN, str(size)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    assert int(found.stdout) < 900 * 1024
