"""HTML → what a reader of the page sees, in order: lines of text with their choices, and pictures.

Nothing here looks at class names. A line is what stands between two block elements: text nodes and
`<select>`s (or ARIA listboxes) in order. A picture is any element with an attribute that holds the
address of a sample or an image prompt: `src`, `srcset`, `data-src`, a background in `style`, the
`url=` of an image resizer. A caption below its pictures in a `<figure>` is read before them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urljoin, urlsplit

from lxml import etree

from pipeline.errors import SourceError
from scrapers.dalleblog.urls import MAX_URL_CHARS

_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr b bdi bdo big button cite code data del dfn em font i ins kbd label mark nobr output "
        "q s samp small span strong sub sup time tt u var wbr",
    )
)
_SILENT = frozenset({"script", "style", "title", "template"})
# Where an address may stand; anything else (a caption in `title`, say) is no picture.
_ADDRESS = re.compile(r"(?:^|/|%2f)(?:samples|image_prompts)(?:/|%2f)", re.IGNORECASE)
_ADDRESS_ENDS = re.compile(r"[\s\"'()<>]+|,(?=\s)")


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
    element: Any

    @property
    def has_choice(self) -> bool:
        """Whether something can be chosen in it."""
        return any(isinstance(token, Choice) for token in self.tokens)


@dataclass(frozen=True, slots=True)
class Picture:
    """An image address with its alternative text."""

    url: str
    alt: str
    element: Any


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a script that may hold data."""

    text: str


Item = Line | Picture | Script


def show(tokens: tuple[Token, ...]) -> str:
    """A line as the page shows it, white space folded."""
    text = "".join(token if isinstance(token, str) else token.text for token in tokens)
    return " ".join(text.split())


def read_items(body: bytes, *, base_url: str) -> list[Item]:
    """The lines, pictures and scripts of a page, in reading order.

    `base_url` is what relative addresses are relative to, unless the page has a `<base>`. Raises
    SourceError if the bytes are no HTML at all.
    """
    root = _parse(body)
    base = root.find(".//base[@href]")
    if base is not None:
        base_url = urljoin(base_url, base.get("href"))
    return list(_Reader(base_url).read(root))


def _parse(body: bytes) -> Any:
    body = body.replace(b"\0", b"")
    try:
        body.decode()
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = None  # what its <meta> says
    parser = etree.HTMLParser(
        encoding=encoding, huge_tree=True, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(body, parser) if body.strip() else None
    except (etree.XMLSyntaxError, ValueError) as error:
        raise SourceError(f"The page is not HTML: {error}. Save it from a browser.") from error
    if root is None:
        raise SourceError("The page is empty; expected HTML. Save it from a browser.")
    return root


class _Reader:
    """Walks the tree once, without recursion: pages nest deeper than Python's stack."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.tokens: list[Token] = []
        self.says_something = False

    def read(self, root: Any) -> Iterator[Item]:
        """The items below an element, in reading order."""
        for figure in root.iter("figure"):
            _put_caption_first(figure)
        walk = etree.iterwalk(root, events=("start", "end"))
        skipping: Any = None
        for event, element in walk:
            tag = element.tag
            if event == "end":
                if tag not in _INLINE and element is not skipping:
                    yield from self._line(element)
                self._text(element.tail)
                skipping = None
                continue
            if tag == "select" or element.get("role") == "listbox":
                self._choice(element)
            else:
                if tag not in _INLINE:
                    yield from self._line(element.getparent())
                yield from self._pictures(element)
                if tag not in _SILENT:
                    self._text(element.text)
                    continue
                yield from _script(element)
            skipping = element
            walk.skip_subtree()

    def _text(self, text: str | None) -> None:
        if text:
            self.tokens.append(text)
            self.says_something = self.says_something or not text.isspace()

    def _line(self, element: Any) -> Iterator[Line]:
        if self.says_something:
            yield Line(tuple(self.tokens), element)
        self.tokens.clear()
        self.says_something = False

    def _choice(self, element: Any) -> None:
        choice = read_choice(element)
        if choice is not None:
            self.tokens.append(choice)
            self.says_something = True

    def _pictures(self, element: Any) -> Iterator[Item]:
        found = [
            address
            for value in element.values()
            if _ADDRESS.search(value)
            for address in addresses_in(value, base_url=self.base_url)
        ]
        if not found:
            return
        yield from self._line(element.getparent())
        alt = element.get("alt") or element.get("aria-label") or element.get("title") or ""
        for address in dict.fromkeys(found):
            yield Picture(address, alt, element)


def read_choice(element: Any) -> Choice | None:
    """The options of a `<select>` or listbox; None if it has none to choose from.

    An option is its label, not its `value`, which may be a number. A first option that is disabled
    or empty is an invitation to choose, not an option.
    """
    options: list[str] = []
    chosen, explicit = 0, False
    for option in element.iter():
        if option.tag != "option" and option.get("role") != "option":
            continue
        label = " ".join(("".join(option.itertext()) or option.get("label") or "").split())
        if not label or option.get("disabled") is not None:
            continue
        if option.get("selected") is not None or option.get("aria-selected") == "true":
            chosen, explicit = len(options), True
        options.append(label)
    name = element.get("name") or element.get("data-slot") or element.get("data-name")
    return Choice(tuple(options), chosen, name, explicit) if options else None


def addresses_in(value: str, *, base_url: str) -> Iterator[str]:
    """The sample and image-prompt addresses in an attribute or a string, made absolute."""
    for part in _ADDRESS_ENDS.split(value):
        if len(part) > MAX_URL_CHARS or not _ADDRESS.search(part):
            continue
        try:
            path = urlsplit(part).path
            if not _ADDRESS.search(path):  # an image resizer: …?url=https%3A%2F%2F…&w=640
                queries = parse_qsl(urlsplit(part).query)
                yield from (urljoin(base_url, v) for _, v in queries if _ADDRESS.search(v))
            else:
                yield urljoin(base_url, part)
        except ValueError:  # no address at all: '[' in the host
            continue


def _put_caption_first(figure: Any) -> None:
    """Move a figure's caption before its pictures; the text after it stays where it is."""
    caption = figure.find("figcaption")
    if caption is None:
        return
    before, tail = caption.getprevious(), caption.tail or ""
    if before is None:
        return
    before.tail, caption.tail = (before.tail or "") + tail, None
    figure.insert(0, caption)


def _script(element: Any) -> Iterator[Script]:
    text = element.text if element.tag == "script" else None
    if text and any(mark in text for mark in ("samples", "{", "[")):
        yield Script(text)
