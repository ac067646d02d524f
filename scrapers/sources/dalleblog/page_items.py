"""The page → its lines of text and its images, in order, with BeautifulSoup.

A line is the content between two block elements: text nodes and `<select>`s (or ARIA listboxes). A sample is
an element with the URL of an image of ours in an attribute: `src`, `srcset`, `data-src`, a background in
`style`, the `url=` of an image resizer. Data in scripts has been turned into elements before (`page_data`).
Class names are ignored: the post has had several designs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, NamedTuple

from bs4 import BeautifulSoup, NavigableString, Tag

from scrapers.fetch.page_urls import clean_text, resolve_url, take_credentials
from scrapers.sources.dalleblog.captions import fold
from scrapers.sources.dalleblog.page_data import (
    KEY,
    MAX_TAGS,
    SECTION,
    ChoiceText,
    data_elements,
    too_much,
)
from scrapers.sources.dalleblog.templates import Alignment, Choice, Tokens, show
from scrapers.sources.dalleblog.urls import KeyKind, SampleUrl, addresses_in, parse_sample_url

_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi bdo big button cite code data del dfn em font i ins kbd label mark nobr output "
        "q s samp small span strong sub sup time tt u var wbr",
    )
)
_NO_CAPTION_IN = {"h1", "h2", "h3", "h4", "h5", "h6", "nav", "button", "footer", "title"}
# Shorter images in the page itself (data:) are placeholders or icons.
_MIN_DATA_CHARS = 2_000
# What an image's URL looks like, whatever its host and kind.
_SAMPLE = re.compile(r"/samples/[^/?#]+/[^?#]+\.(?:png|jpe?g|webp|avif|gif)", re.IGNORECASE)
# The blog has about 70 choices and 30,000 captions, and no design nests elements so deeply.
_MAX_CHOICES, _MAX_OPTIONS, _MAX_IMAGES = 1_000, 100_000, 100_000
_MAX_DEPTH, _MAX_SECTIONS = 20_000, 1_000
# A line with more text nodes is no caption, and its place within its block doesn't matter.
_MAX_TEXTS = 200
MAX_CAPTION_CHARS = 2_000


@dataclass(eq=False, slots=True)
class Line:
    """Text and choices, with the smallest element around it, its figure, its figcaption if in one.

    `is_prose`: not in a heading or navigation; `section`: its section in the data.
    """

    tokens: Tokens
    node: Tag
    place: int
    figure: Tag | None = None
    figcaption: Tag | None = None
    is_prose: bool = True
    section: str | None = None
    alignment: Alignment | None = None
    shown: str = field(init=False)

    def __post_init__(self) -> None:
        """Its shown text, folded."""
        self.shown = show(self.tokens)

    @property
    def has_choice(self) -> bool:
        """Whether it has a choice."""
        return any(isinstance(token, Choice) for token in self.tokens)

    @property
    def is_strong(self) -> bool:
        """Whether it is certainly a caption: it has choices, or fits a template of the catalogue."""
        return self.alignment is not None or self.has_choice

    @property
    def is_template(self) -> bool:
        """Whether it tells more about its section than a figure's single caption."""
        return self.has_choice or (self.alignment is not None and self.figcaption is None)

    @property
    def gap(self) -> Alignment | None:
        """Its match with its template, if that spreads a slot out over images."""
        return self.alignment if self.alignment and self.alignment.gap else None


@dataclass(eq=False, slots=True)
class Image:
    """A sample, with the texts of its element."""

    sample: SampleUrl
    node: Tag
    place: int
    figure: Tag | None
    texts: tuple[str, ...]


@dataclass
class Items:
    """The content of a page, in order.

    `figures` have their positions; `others` are images that are no samples; `embedded` counts images whose
    bytes are in the page itself, `unreadable` samples without a web URL; `credentials` have been removed from
    all URLs.
    """

    lines: list[Line] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    figures: list[tuple[int, Tag]] = field(default_factory=list)
    others: list[Tag] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    meta: list[tuple[str, str]] = field(default_factory=list)
    credentials: dict[str, tuple[str, str]] = field(default_factory=dict)
    embedded: int = 0
    unreadable: int = 0


class _Scope(NamedTuple):
    """The ancestors of an element's contents."""

    depth: int
    block: Tag
    figure: Tag | None
    figcaption: Tag | None
    is_prose: bool


def read_items(text: str, *, base_url: str, sections: Mapping[str, KeyKind]) -> Items:
    """The lines and samples of a page at `base_url`, unless its `<base>` names another.

    `sections` are the known ones with the kind of their keys. Raises SourceError for a page that has more
    than any blog post would.
    """
    if text.count("<") > MAX_TAGS:
        raise too_much("tags", MAX_TAGS)
    body = clean_text(text).replace("\0", "").encode()
    soup = BeautifulSoup(body, "lxml", from_encoding="utf-8")
    for tag in soup.find_all(["template", "style"]):
        tag.decompose()
    base = soup.find("base", href=True)
    if isinstance(base, Tag):
        base_url = resolve_url(str(base["href"]), base_url) or base_url
    choices = soup.find_all(_is_choice)
    if len(choices) > _MAX_CHOICES:
        raise too_much("choices", _MAX_CHOICES)
    for tag in choices:
        _replace_choice(tag)
    for script in soup.find_all("script"):
        script.replace_with(*data_elements(script.string or "", soup, sections))
    reader = _Reader(soup, base_url)
    reader.read()
    if len({image.sample.section for image in reader.items.images}) > _MAX_SECTIONS:
        raise too_much("sections", _MAX_SECTIONS)
    return reader.items


class _Reader:
    def __init__(self, soup: BeautifulSoup, base_url: str) -> None:
        self.soup = soup
        self.base_url = base_url
        self.items = Items()
        self.scopes = {id(soup): _Scope(0, soup, None, None, True)}
        self.texts: list[NavigableString] = []
        self.place = self.start = 0
        self.by_id: dict[str, Tag] | None = None

    def read(self) -> None:
        """Walk through the elements and texts, in order."""
        for place, node in enumerate(self.soup.descendants):
            self.place = place
            if isinstance(node, Tag):
                self._open(node, self._around(node))
            elif type(node) is NavigableString or isinstance(node, ChoiceText):
                if self.texts and self._around(node).block is not self._around(self.texts[0]).block:
                    self._end_line()
                self.start = self.start if self.texts else self.place
                self.texts.append(node)
        self._end_line()

    def _around(self, node: Any) -> _Scope:
        return self.scopes[id(node.parent)]

    def _open(self, tag: Tag, around: _Scope) -> None:
        depth, is_figure = around.depth + 1, _is_figure(tag)
        is_figcaption = tag.name == "figcaption" and around.figure is not None
        if depth > _MAX_DEPTH:
            raise too_much("elements nested in each other", _MAX_DEPTH)
        is_block = is_figure or tag.name not in _INLINE
        if is_block:
            self._end_line()
        if is_figure:
            self.items.figures.append((self.place, tag))
        if tag.name == "meta" and tag.get("name"):
            self.items.meta.append((str(tag["name"]).lower(), str(tag.get("content", ""))))
        self.scopes[id(tag)] = scope = _Scope(
            depth,
            tag if is_block else around.block,
            tag if is_figure else around.figure,
            None if is_figure else tag if is_figcaption else around.figcaption,
            around.is_prose and tag.name not in _NO_CAPTION_IN,
        )
        self._find_images(tag, scope.figure)

    def _end_line(self) -> None:
        said = [text for text in self.texts if isinstance(text, ChoiceText) or not text.isspace()]
        tokens = tuple(t.choice if isinstance(t, ChoiceText) else str(t) for t in self.texts)
        self.texts.clear()
        if not said:
            return
        block = self._around(said[0]).block
        node = _around_all(said, block) if len(said) <= _MAX_TEXTS else block
        scope, section = self.scopes[id(node)], node.get(SECTION)
        line = Line(tokens, node, self.start, scope.figure, scope.figcaption)
        line.section = str(section) if section else None
        line.is_prose = all(self._around(text).is_prose for text in said)
        self.items.lines.append(line)

    def _find_images(self, tag: Tag, figure: Tag | None) -> None:
        found: dict[object, SampleUrl] = {}
        for value in tag.attrs.values():
            for address in addresses_in(str(value), base_url=self.base_url):
                url, credentials = take_credentials(address)
                self.items.credentials.update(credentials)
                sample = parse_sample_url(url)
                if sample is None:
                    self.items.prompts.append(url)
                elif (*sample.identity, sample.rank) not in found or sample.query:
                    # The last of several sizes: a srcset ends with the largest.
                    found[*sample.identity, sample.rank] = sample
        source = str(tag.get("src", "")) if tag.name == "img" else ""
        if not found and (other := _without_host(tag, source)) is not None:
            found[None] = other
        if found:
            self._end_line()
            texts = tuple(self._own_texts(tag, figure))
            samples = found.values()
            self.items.images += [Image(s, tag, self.place, figure, texts) for s in samples]
            if len(self.items.images) > _MAX_IMAGES:
                raise too_much("images", _MAX_IMAGES)
        elif _SAMPLE.search(source):
            self.items.unreadable += 1
        elif source.startswith("data:"):
            is_raster = source.startswith("data:image/") and "svg" not in source[:20]
            self.items.embedded += is_raster and len(source) > _MIN_DATA_CHARS
        elif source:
            self.items.others.append(tag)

    def _own_texts(self, tag: Tag, figure: Tag | None) -> Iterator[str]:
        """The texts of an image's attributes, and its label, unless that is in another figure."""
        around = tag.parent if tag.name == "source" else tag if tag.name == "a" else None
        inner = around.find_all("img") if around is not None else []
        holders = [tag, *(inner if len(inner) == 1 else ())]
        found = [one.get(name) for one in holders for name in ("alt", "title", "aria-label")]
        labels = str(tag.get("aria-labelledby") or "").split()
        if labels and self.by_id is None:
            self.by_id = {str(one["id"]): one for one in self.soup.find_all(id=True)}
        for label in (self.by_id[name] for name in labels if self.by_id and name in self.by_id):
            owner = next(filter(_is_figure, upwards(label)), None)
            found += [label.get_text(" ")] if owner is None or owner is figure else []
        yield from (fold(str(text)) for text in found if text and str(text).strip())


def upwards(node: Tag | None) -> Iterator[Tag]:
    """An element and its ancestors."""
    while node is not None:
        yield node
        node = node.parent


def _around_all(texts: list[NavigableString], block: Tag) -> Tag:
    """The smallest element that contains all of some texts of a block."""
    first, *others = texts
    below = [takewhile(lambda up: up is not block, upwards(text.parent)) for text in others]
    inner = [{id(tag) for tag in (*tags, block)} for tags in below]
    around: Iterator[Tag] = upwards(first.parent)
    return next(tag for tag in around if all(id(tag) in ids for ids in inner))


def _without_host(tag: Tag, source: str) -> SampleUrl | None:
    """A bare key of the data, or a sample that the browser that saved the page renamed to
    `./X_files/KEY_RANK.png`; this has no section."""
    if key := tag.get(KEY):
        return parse_sample_url(f"/samples/{key}_0.png")
    folder, _, file = source.rpartition("/")
    sample = parse_sample_url(f"/samples/-/{file}") if folder.endswith("_files") else None
    return None if sample is None or sample.kind == "name" else replace(sample, section="")


def _is_figure(tag: Tag) -> bool:
    return tag.name == "figure" or tag.get("role") == "figure"


# --- Choices ------------------------------------------------------------------------------------------


def _is_choice(tag: Tag) -> bool:
    return tag.name == "select" or tag.get("role") == "listbox"


def _is_block(tag: Tag) -> bool:
    return tag.name not in _INLINE


def _is_option(tag: Tag) -> bool:
    return tag.name == "option" or tag.get("role") == "option"


def _replace_choice(tag: Tag) -> None:
    """Replace a `<select>` with a choice, and move what doesn't belong there after it."""
    options = tag.find_all(_is_option)
    if len(options) > _MAX_OPTIONS:
        raise too_much("options in one choice", _MAX_OPTIONS)
    if tag.name == "select":
        blocks = [b for o in options for b in o.find_all(_is_block, recursive=False)]
        tag.insert_after(*(block.extract() for block in blocks))
    found = [o for o in options if _label(o) and not o.has_attr("disabled")]
    marked = [
        n for n, o in enumerate(found) if o.has_attr("selected") or o.get("aria-selected") == "true"
    ]
    names = (tag.get(name) for name in ("name", "data-slot", "data-name"))
    name = next((str(name) for name in names if name), None)
    if not found:
        tag.decompose()
        return
    labels, chosen = tuple(map(_label, found)), marked[-1] if marked else 0
    tag.replace_with(ChoiceText.of(Choice(labels, chosen, name, bool(marked))))


def _label(option: Tag) -> str:
    """The shown text of an option; not its `value`, which may be a number."""
    return " ".join(option.get_text().split()) or str(option.get("label", ""))
