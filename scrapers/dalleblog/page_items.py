"""HTML → what a reader of the page sees, in order: lines of text with their choices, and pictures.

Nothing here looks at class names. A line is what stands between two block elements: text nodes and
`<select>`s (or ARIA listboxes) in order. A picture is any element with an attribute that holds the
address of a sample or an image prompt: `src`, `srcset`, `data-src`, a background in `style`, the
`url=` of an image resizer. A caption below its pictures in a `<figure>` is read before them.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

from lxml import etree

from pipeline.errors import SourceError
from scrapers.dalleblog.urls import ADDRESS, addresses_in

_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi bdo big button cite code data del dfn em font i ins kbd label mark nobr output "
        "q s samp small span strong sub sup time tt u var wbr",
    )
)
_SILENT = frozenset({"script", "style", "title", "template"})
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Choice:
    """A `<select>` in a line: its options, the index of the chosen one, and a name that links it."""

    options: tuple[str, ...]
    chosen: int
    name: str | None = None
    explicit: bool = False  # an option is marked as selected

    @property
    def text(self) -> str:
        """The option that the page shows."""
        return self.options[self.chosen]


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


def read_items(body: bytes, *, base_url: str) -> list[Item]:
    """The lines, pictures and scripts of a page, in reading order.

    `base_url` is what relative addresses are relative to, unless the page has a `<base>`. Memory is
    that of the items: no tree is built. Raises SourceError if the bytes are no HTML at all.
    """
    reader = _Reader(base_url)
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

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.has_base = False
        self.items: list[Item] = []
        self.node = Node("", None)
        self.text: list[str] = []
        self.tokens: list[Token] = []
        self.says_something = False
        self.silent: Node | None = None
        self.choosing: _Choosing | None = None
        self.figures: list[int | None] = []  # where each open figure starts, None once it has moved

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element opens."""
        self.node = Node(tag, self.node)
        if self.silent is not None:
            return
        if self.choosing is not None and self._chooses(self.choosing, tag, attributes):
            return
        self._end_text()
        # A tag without attributes has no dict but a mapping that is slow to ask.
        if tag == "select" or (attributes and attributes.get("role") == "listbox"):
            self.choosing = _Choosing(self.node, attributes)
            return
        if tag not in _INLINE:
            self._end_line(self.node.parent)
        if tag in _SILENT:
            self.silent = self.node
        elif tag == "figure":
            self.figures.append(len(self.items))
        elif tag == "base" and attributes.get("href") and not self.has_base:
            self.base_url, self.has_base = urljoin(self.base_url, attributes["href"]), True
        if attributes:
            self._pictures(attributes)

    def end(self, tag: str) -> None:
        """An element closes."""
        node, self.node = self.node, self.node.parent or self.node
        if self.silent is not None:
            self._end_silence(node)
        elif self.choosing is not None:
            if self.choosing.node is node:
                self._end_choice()
        else:
            self._end_text()
            if tag not in _INLINE:
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
            self.items.append(Line(tuple(self.tokens), node))
        self.tokens.clear()
        self.says_something = False

    def _end_silence(self, node: Node) -> None:
        if node is not self.silent:
            return
        text = "".join(self.text)
        self.text.clear()
        self.silent = None
        if node.tag == "script" and any(mark in text for mark in ("samples", "{", "[")):
            self.items.append(Script(text))

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

    def _chooses(self, choosing: _Choosing, tag: str, attributes: Mapping[str, str]) -> bool:
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


class _Choosing:
    """The options of an open `<select>` or listbox.

    An option is its label, not its `value`, which may be a number. One that is disabled or empty is
    an invitation to choose, not an option.
    """

    def __init__(self, node: Node, attributes: Mapping[str, str]) -> None:
        self.node = node
        names = (attributes.get(name) for name in ("name", "data-slot", "data-name"))
        self.name = next((name for name in names if name), None)
        self.options: list[tuple[Mapping[str, str], list[str]]] = []

    def takes(self, tag: str, attributes: Mapping[str, str]) -> bool:
        """Whether a tag is an option or may stand in one."""
        if tag == "option" or attributes.get("role") == "option":
            self.options.append((dict(attributes), []))
            return True
        return self.node.tag != "select" or tag == "optgroup" or tag in _INLINE

    def add_text(self, text: str) -> None:
        """Text of the option that opened last."""
        if self.options:
            self.options[-1][1].append(text)

    def choice(self) -> Choice | None:
        """What can be chosen, None if nothing can."""
        labels: list[str] = []
        chosen, is_marked = 0, False
        for attributes, texts in self.options:
            label = " ".join("".join(texts).split()) or attributes.get("label") or ""
            if not label or "disabled" in attributes:
                continue
            if "selected" in attributes or attributes.get("aria-selected") == "true":
                chosen, is_marked = len(labels), True
            labels.append(label)
        return Choice(tuple(labels), chosen, self.name, is_marked) if labels else None
