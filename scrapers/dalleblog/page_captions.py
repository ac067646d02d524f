"""Lines of a page → its captions: which of the lines are one, and which are only prose.

A line is a caption if the catalogue has a template for it, if the pictures that follow say so (a
base64 key spells its caption, an alternative text may), or if something can be chosen in it. A line
of plain text that looks like one (lower case, some words) is a *weak* caption: pictures that fit no
better one belong to it.

A design may spread one caption over several blocks, or put a label in front of it. So around a line
with choices the runs of neighbouring text nodes are tried too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from scrapers.dalleblog.alignment import Alignment, Templates
from scrapers.dalleblog.captions import fold, plain_quotes
from scrapers.dalleblog.page_choices import Choice
from scrapers.dalleblog.page_items import Item, Line, Node, Picture, Token, show
from scrapers.dalleblog.urls import parse_sample_url

# How many text nodes on each side of a choice may belong to its caption.
_REACH = 16
_HINTS = 64
_MAX_CAPTION_CHARS = 2_000
_CAPTION_LIKE = re.compile(r"[a-z0-9‘’'\"“][^{}<>|]{8,}")
_AN = re.compile(r"\ban\b")


@dataclass(frozen=True, slots=True)
class Visual:
    """A caption of the page: its text and choices, and the template that it fits, if any."""

    tokens: tuple[Token, ...]
    node: Node | None = None
    alignment: Alignment | None = None
    weak: bool = False

    @property
    def has_choice(self) -> bool:
        """Whether something can be chosen in it."""
        return any(isinstance(token, Choice) for token in self.tokens)

    @property
    def shown(self) -> str:
        """The caption as the page shows it, folded."""
        return fold(show(self.tokens))


Entry = Visual | Line | Picture


def find_captions(items: list[Item], templates: Templates) -> Iterator[Entry]:
    """The page's captions, its other lines and its pictures, in order."""
    lines: list[Line] = []
    following = _hints(items)
    for index, item in enumerate(items):
        if isinstance(item, Line):
            lines.append(item)
        elif isinstance(item, Picture):
            if lines:
                yield from _captions_among(lines, templates, following(index))
                lines.clear()
            yield item
    yield from _captions_among(lines, templates, frozenset())


def same_caption(first: str, second: str) -> bool:
    """Whether two captions differ at most in their quotes and in `a` for `an`."""
    return comparable(first) == comparable(second)


def comparable(caption: str) -> str:
    """A caption reduced to what tells it from others: ASCII quotes, `a` for `an`."""
    return _AN.sub("a", plain_quotes(caption))


def _hints(items: list[Item]) -> Callable[[int], frozenset[str]]:
    """What the pictures from an index on say of their captions."""

    def following(index: int) -> frozenset[str]:
        said: set[str] = set()
        for item in items[index : index + _HINTS]:
            if not isinstance(item, Picture):
                break
            url = parse_sample_url(item.url)
            said.add(comparable(fold(item.alt)))
            said.add(comparable(url.caption or "") if url is not None else "")
        return frozenset(said - {""})

    return following


def _captions_among(
    lines: list[Line], templates: Templates, hints: Collection[str]
) -> Iterator[Entry]:
    """Captions and other lines of a stretch without pictures."""
    index = 0
    while index < len(lines):
        line = lines[index]
        visual = _recognise(line.tokens, line.node, templates, hints)
        last = index
        if visual is None and line.has_choice:
            visual, last = _around(lines, index, templates, hints)
        elif visual is None and looks_like_caption(show(line.tokens)):
            visual = Visual(line.tokens, line.node, weak=True)
        yield line if visual is None else visual
        index = last + 1


def _recognise(
    tokens: tuple[Token, ...], node: Node | None, templates: Templates, hints: Collection[str]
) -> Visual | None:
    text = show(tokens)
    if not text or len(text) > _MAX_CAPTION_CHARS:
        return None
    alignment = templates.align(tokens)
    if alignment is not None or (hints and comparable(fold(text)) in hints):
        return Visual(tokens, node, alignment)
    return None


def _around(
    lines: list[Line], index: int, templates: Templates, hints: Collection[str]
) -> tuple[Visual, int]:
    """The caption that a line with choices belongs to, and the last line that it takes up."""
    tokens, owners = _neighbours(lines, index)
    own = [k for k, owner in enumerate(owners) if owner == index]
    choices = [k for k in own if isinstance(tokens[k], Choice)]
    lows = range(choices[0], max(choices[0] - _REACH, 0) - 1, -1)
    highs = range(choices[-1], min(choices[-1] + _REACH, len(tokens) - 1) + 1)
    templates = templates.near(tuple(tokens))
    for low in lows if templates.sections or hints else ():
        for high in highs:
            run = tuple(tokens[low : high + 1])
            visual = _recognise(run, lines[index].node, templates, hints)
            if visual is not None:
                return visual, max(index, owners[high])
    return _by_structure(lines, index)


def _neighbours(lines: list[Line], index: int) -> tuple[list[Token], list[int]]:
    """The text nodes around a line, and the line of each."""
    tokens: list[Token] = []
    owners: list[int] = []
    for number in range(max(index - _REACH, 0), min(index + _REACH + 1, len(lines))):
        # The space stands for the block boundary; folding makes one of many.
        for token in (" ", *lines[number].tokens):
            tokens.append(token)
            owners.append(number)
    return tokens, owners


def _by_structure(lines: list[Line], index: int) -> tuple[Visual, int]:
    """A choice with no text beside it takes the text of the smallest element that has some."""
    line, last = lines[index], index
    tokens, node = line.tokens, line.node
    while node is not None and not any(isinstance(t, str) and t.strip() for t in tokens):
        inside = [k for k in range(index, len(lines)) if _is_inside(lines[k].node, node)]
        tokens = tuple(token for k in inside for token in (" ", *lines[k].tokens))
        last = inside[-1] if inside else index
        node = node.parent
    return Visual(tokens or line.tokens, line.node), last


def _is_inside(node: Node | None, ancestor: Node) -> bool:
    while node is not None and node is not ancestor:
        node = node.parent
    return node is ancestor


def looks_like_caption(text: str) -> bool:
    """Whether plain text could be a caption: it starts in lower case and has at least three words."""
    return (
        len(text) <= _MAX_CAPTION_CHARS
        and _CAPTION_LIKE.fullmatch(text) is not None
        and len(text.split()) >= 3
    )
