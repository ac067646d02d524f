"""HTML → what a reader of the page sees, in order: lines of text with their choices, and pictures.

Nothing here looks at class names. A line is what stands between two block elements: text nodes and
`<select>`s (or ARIA listboxes) in order. A picture is any element with an attribute that holds the
address of a sample or an image prompt: `src`, `srcset`, `data-src`, a background in `style`, the
`url=` of an image resizer. A caption below its pictures in a `<figure>` is read before them.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from lxml import etree

from pipeline.errors import SourceError
from scrapers.dalleblog.page_choices import INLINE, Choice, Choosing
from scrapers.dalleblog.urls import ADDRESS, addresses_in

_SILENT = frozenset({"script", "style", "title", "template"})
_CHUNK_BYTES = 1 << 20
# Of a long stretch of plain lines, so many at each end are kept; nobody looks further than that.
KEPT_LINES = 800
# The blog has about 70 choices and 30,000 captions, and no design nests elements so deep.
_MAX_CHOICES = 1_000
_MAX_PICTURES = 100_000
_MAX_DEPTH = 20_000


Token = str | Choice


@dataclass(frozen=True, slots=True)
class Line:
    """Text nodes and choices between two block boundaries."""

    tokens: tuple[Token, ...]
    node: Node | None

    @property
    def has_choice(self) -> bool:
        """Whether something can be chosen in it."""
        return any(isinstance(token, Choice) for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image address with its alternative text."""

    url: str
    alt: str
    node: Node


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script that may hold data."""

    text: str


Item = Line | Picture | Script


def show(tokens: tuple[Token, ...]) -> str:
    """A line as the page shows it, white space folded."""
    text = "".join(token if isinstance(token, str) else token.text for token in tokens)
    return " ".join(text.split())


class Node:
    """An element that an item stands in: its tag and its parent. The rest of the tree is not kept."""

    __slots__ = ("parent", "tag")

    def __init__(self, tag: str, parent: Node | None) -> None:
        self.tag = tag
        self.parent = parent


def read_items(body: bytes, *, base_url: str, is_wanted: Callable[[Line], bool]) -> list[Item]:
    """The lines, pictures and scripts of a page, in reading order.

    `base_url` is what relative addresses are relative to, unless the page has a `<base>`. Memory is
    that of the items: no tree is built, and of plain lines far from any picture or choice only those
    are kept that `is_wanted` wants. Raises SourceError if the bytes are no HTML at all, or hold more
    than any blog post would.
    """
    reader = _Reader(base_url, is_wanted)
    parser = etree.HTMLParser(
        target=reader, encoding="utf-8" if _is_utf8(body) else None, huge_tree=True
    )
    try:
        for start in range(0, len(body), _CHUNK_BYTES):
            parser.feed(body[start : start + _CHUNK_BYTES].replace(b"\0", b""))
        items: list[Item] = parser.close() if body.strip(b"\0 \t\r\n") else []
    except (etree.LxmlError, ValueError) as error:
        raise SourceError(f"The page is not HTML: {error}. Save it from a browser.") from error
    return items


def _is_utf8(body: bytes) -> bool:
    """Whether the bytes are UTF-8; else the page's `<meta>` says what they are."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), _CHUNK_BYTES):
            decoder.decode(body[start : start + _CHUNK_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


class _Reader:
    """Told by the parser of tags and text, it gathers the items."""

    def __init__(self, base_url: str, is_wanted: Callable[[Line], bool]) -> None:
        self.base_url = base_url
        self.is_wanted = is_wanted
        self.has_base = False
        self.depth = self.num_choices = self.num_pictures = 0
        self.plain_from = 0  # where the present stretch of plain lines starts
        self.items: list[Item] = []
        self.node = Node("", None)
        self.text: list[str] = []
        self.tokens: list[Token] = []
        self.says_something = False
        self.silent: Node | None = None
        self.choosing: Choosing | None = None
        self.figures: list[int | None] = []  # where each open figure starts, None once it has moved

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element opens."""
        self.node = Node(tag, self.node)
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise _too_much("elements nested in each other", _MAX_DEPTH)
        if self.silent is not None:
            return
        if self.choosing is not None and self._chooses(self.choosing, tag, attributes):
            return
        self._end_text()
        # A tag without attributes has no dict but a mapping that is slow to ask.
        if tag == "select" or (attributes and attributes.get("role") == "listbox"):
            self.choosing = Choosing(self.node, tag, attributes)
            return
        if tag not in INLINE:
            self._end_line(self.node.parent)
        if tag in _SILENT:
            self.silent = self.node
        elif tag == "figure":
            self.figures.append(len(self.items))
            self.plain_from = len(self.items)
        elif tag == "base" and attributes.get("href") and not self.has_base:
            self.base_url, self.has_base = urljoin(self.base_url, attributes["href"]), True
        if attributes:
            self._pictures(attributes)

    def end(self, tag: str) -> None:
        """An element closes."""
        node, self.node = self.node, self.node.parent or self.node
        self.depth -= 1
        if self.silent is not None:
            self._end_silence(node)
        elif self.choosing is not None:
            if self.choosing.node is node:
                self._end_choice()
        else:
            self._end_text()
            if tag not in INLINE:
                self._end_line(node)
            self._end_figure(tag)

    def data(self, text: str) -> None:
        """Some text; a text node may come in several pieces."""
        if self.choosing is not None:
            self.choosing.add_text(text)
        else:
            self.text.append(text)

    def comment(self, text: str) -> None:
        """A comment says nothing."""

    def pi(self, target: str, data: str | None = None) -> None:
        """A processing instruction says nothing."""

    def close(self) -> list[Item]:
        """The page ends."""
        if self.choosing is not None:
            self._end_choice()
        self._end_text()
        self._end_line(self.node)
        return self.items

    def _end_text(self) -> None:
        if self.text:
            text = "".join(self.text)
            self.text.clear()
            self.tokens.append(text)
            self.says_something = self.says_something or not text.isspace()

    def _end_line(self, node: Node | None) -> None:
        if self.says_something:
            line = Line(tuple(self.tokens), node)
            self.items.append(line)
            if line.has_choice:
                self.plain_from = len(self.items)
            elif len(self.items) - self.plain_from >= 4 * KEPT_LINES:
                self._thin_out()
        self.tokens.clear()
        self.says_something = False

    def _thin_out(self) -> None:
        """Drop what nobody wants from the middle of the present stretch of plain lines."""
        first, last = self.plain_from + KEPT_LINES, len(self.items) - KEPT_LINES
        wanted = [item for item in self.items[first:last] if self._is_wanted(item)]
        self.items[first:last] = wanted
        self.plain_from += len(wanted)

    def _is_wanted(self, item: Item) -> bool:
        return not isinstance(item, Line) or self.is_wanted(item)

    def _end_silence(self, node: Node) -> None:
        if node is not self.silent:
            return
        text = "".join(self.text)
        self.text.clear()
        self.silent = None
        if node.tag == "script" and any(mark in text for mark in ("samples", "{", "[")):
            self.items.append(Script(text))
            self.plain_from = len(self.items)

    def _end_figure(self, tag: str) -> None:
        """Puts a figure's first caption before its pictures."""
        if tag == "figure" and self.figures:
            self.figures.pop()
        elif tag == "figcaption" and self.figures and self.figures[-1] is not None:
            start = self.figures[-1]
            inside = self.items[start:]
            pictures = [k for k, item in enumerate(inside) if isinstance(item, Picture)]
            caption = pictures[-1] + 1 if pictures else 0
            self.items[start:] = inside[caption:] + inside[:caption]
            self.figures[-1] = None
            self.plain_from = len(self.items)

    def _chooses(self, choosing: Choosing, tag: str, attributes: Mapping[str, str]) -> bool:
        """Whether a tag belongs to an open choice. One that cannot ends a `<select>` left open."""
        if choosing.takes(tag, attributes):
            return True
        self._end_choice()
        return False

    def _end_choice(self) -> None:
        choice = self.choosing.choice() if self.choosing is not None else None
        self.choosing = None
        if choice is not None:
            self.tokens.append(choice)
            self.says_something = True
            self.num_choices += 1
            if self.num_choices > _MAX_CHOICES:
                raise _too_much("choices", _MAX_CHOICES)

    def _pictures(self, attributes: Mapping[str, str]) -> None:
        found = [
            address
            for value in attributes.values()
            if value and ADDRESS.search(value)
            for address in addresses_in(value, base_url=self.base_url)
        ]
        if not found:
            return
        self._end_line(self.node.parent)
        names = (attributes.get(name) for name in ("alt", "aria-label", "title"))
        alt = next((name for name in names if name), "")
        self.items.extend(Picture(url, alt, self.node) for url in dict.fromkeys(found))
        self.plain_from = len(self.items)
        self.num_pictures += len(found)
        if self.num_pictures > _MAX_PICTURES:
            raise _too_much("pictures", _MAX_PICTURES)


def _too_much(what: str, most: int) -> SourceError:
    return SourceError(
        f"The page has more than {most:,} {what}, which no blog post has. Save the right page from a "
        "browser and pass --page FILE, or leave it out (--no-page)."
    )
