"""Ties: which caption an image of the page has; never that of another image.

An image has, in this order,

1. the caption encoded in its base64 key;
2. the `<figcaption>` of its own figure, whatever it looks like;
3. its own `alt`, `title`, `aria-label` or what it is `aria-labelledby`;
4. the text that the structure ties to it alone: the smallest element around the image that contains a text
   is the smallest around the text that contains an image, and neither has a rival there. A caption of the
   image's section takes precedence over a text with choices, and this over other text. Captions of these two
   kinds that alternate with images of one key each, caption first, are tied in turn.

If a section spreads a slot out as a row of images, such a text (or the head of the image's column) is the
slot's option. No tie crosses another figure or takes a text from one. Images without a caption are left out
and counted (`page`).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile

from bs4 import Tag

from scrapers.sources.dalleblog.captions import (
    Section,
    comparable,
    fold,
    plain_quotes,
    same_caption,
    words_of,
)
from scrapers.sources.dalleblog.page_items import MAX_CAPTION_CHARS, Image, Items, Line, upwards
from scrapers.sources.dalleblog.templates import Templates
from scrapers.sources.dalleblog.urls import SampleUrl

# A text of these words alone says nothing about an image.
_SAYS_NOTHING = frozenset(
    re.findall(
        r"\w+",
        "ai all and click dall e edit explore figure generated image images load logo more next of or "
        "photo photos picture pictures previous prompt result results sample samples see show text the "
        "view",
    )
)
# A caption that fits no template of its section must have this share of the template's words.
_MIN_SHARED_WORDS = 0.6
# Some sections have several image prompts for a caption, and a key for each; more is a headline.
_MAX_KEYS_OF_A_CAPTION = 8
# The blog has two captions that spread a slot out.
_MAX_GAPS = 1_000
# The kinds of text that the structure may tie, the most certain first.
_OF_SECTION, _WITH_CHOICE, _PLAIN = range(3)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tie:
    """A sample with its caption, the rule, and the line of the page that it comes from, if any."""

    caption: str
    url: SampleUrl
    rule: int
    line: Line | None


class Tying:
    """Ties the samples of a page to their captions, by the rules at the top of this file."""

    def __init__(self, items: Items, templates: Templates) -> None:
        self.items = items
        self.templates = templates
        self.known = templates.by_name
        self.tied: dict[Image, Tie] = {}
        self.headlines: list[tuple[str, str]] = []
        self.strong = [line for line in items.lines if line.is_strong]
        self.said: dict[Line, set[object]] = defaultdict(
            set
        )  # the keys that a line was assigned to
        self.patterns: dict[Line, re.Pattern[str]] = {}
        self.keys_of_text: dict[str, set[object]] = defaultdict(set)
        self.keys_of_figure: dict[int, set[object]] = defaultdict(set)
        self.figcaptions: dict[int, dict[int, list[Line]]] = defaultdict(dict)
        self.gaps = {name: _Gaps(items.lines, name) for name in self.known if self.known[name].axis}
        for image in items.images:
            if image.sample.kind != "name":
                self.keys_of_figure[id(image.figure)].add(image.sample.key)
            for text in image.texts:
                self.keys_of_text[text].add(image.sample.identity)
        for line in items.lines:
            if line.figcaption is not None:
                of_figure = self.figcaptions[id(line.figure)]
                of_figure.setdefault(id(line.figcaption), []).append(line)
        for image in items.images:
            self._tie_by_its_own(image)
        self._tie_by_structure()
        for image in items.images:
            last = None if image in self.tied else self._own_text(image, any_section=True)
            if last is not None:
                self._tie(image, last, rule=5)

    def _tie(self, image: Image, caption: str, *, rule: int, line: Line | None = None) -> None:
        self.tied[image] = Tie(caption=caption, url=image.sample, rule=rule, line=line)
        if line is not None and same_caption(line.shown, caption):
            self.said[line].add(image.sample.identity)

    def _tie_by_its_own(self, image: Image) -> None:
        figcaptions = list(self.figcaptions[id(image.figure)].values())
        lines = figcaptions[0] if len(figcaptions) == 1 else []
        figcaption = " ".join(line.shown for line in lines)
        heads = map(_column_head, [image.node])
        labels = [figcaption] if figcaption else chain(image.texts, heads)
        if image.sample.caption is not None:
            spelt = fold(image.sample.caption)
            self._tie(image, spelt, rule=1, line=self._line_spelling(image, spelt))
        elif (found := self._option_shown(image, labels)) is not None:
            self._tie(image, found[0], rule=2, line=found[1])
        elif figcaption and len(self.keys_of_figure[id(image.figure)]) > _MAX_KEYS_OF_A_CAPTION:
            self.headlines.append((image.sample.section, figcaption))
        elif figcaption:
            is_one = len(lines) == 1 and lines[0].is_strong
            self._tie(image, figcaption, rule=2, line=lines[0] if is_one else None)
        elif text := self._own_text(image):
            self._tie(image, text, rule=3, line=self._line_spelling(image, text))

    def _own_text(self, image: Image, *, any_section: bool = False) -> str | None:
        """The image's own text: a caption of its section, else a text that no other key has."""
        known = self.known.get(image.sample.section)
        for text in image.texts:
            is_alone = len(self.keys_of_text[text]) == 1 and (known is None or any_section)
            if _says_something(text) and (is_alone or (known and _shares_words(text, known))):
                return text
        return None

    def _option_shown(self, image: Image, labels: Iterable[str]) -> tuple[str, Line] | None:
        """The caption of a slot that is spread out over images, if a label is one of its options.

        The template is the only one in the smallest element that contains one of the image's section.
        """
        known = self.known.get(image.sample.section)
        if known is None or known.axis is None:
            return None
        options = known.plain_options[known.axis]
        label = next((options[o] for t in labels if (o := plain_quotes(fold(t))) in options), None)
        line = None if label is None else self.gaps[known.name].only_around(image.node)
        if label is None or line is None or line.figure not in (None, image.figure):
            return None
        chosen = line.alignment.chosen if line.alignment else {}
        return known.forms({**chosen, known.axis: label})[0], line

    def _line_spelling(self, image: Image, caption: str) -> Line | None:
        """A line near an image whose choices can be set to the image's known caption."""
        at = bisect_left(self.strong, image.place, key=lambda line: line.place)
        near = [*reversed(self.strong[max(at - 4, 0) : at]), *self.strong[at : at + 1]]
        return next((line for line in near if self._could_show(line, caption)), None)

    def _could_show(self, line: Line, caption: str) -> bool:
        """Whether a line's choices can be set so that it shows this caption."""
        if line.gap is not None:
            return line.gap.section.match(caption) is not None
        if not line.has_choice:
            return same_caption(line.shown, caption)
        if line not in self.patterns:
            self.patterns[line] = _pattern(line)
        return self.patterns[line].fullmatch(comparable(caption)) is not None

    # --- Ties by structure --------------------------------------------------------------------------

    def _tie_by_structure(self) -> None:
        """Process each element that is the smallest with both an image and a text, for both."""
        axes = [s.plain_options[s.axis] for s in self.known.values() if s.axis is not None]
        labels = {option for options in axes for option in options}
        lines = [line for line in self.items.lines if _is_candidate(line, labels)]
        samples = [image.node for image in self.items.images]
        with_text = _Marked(line.node for line in lines)
        with_sample, with_image = _Marked(samples), _Marked([*samples, *self.items.others])
        groups: dict[int, _Group] = defaultdict(_Group)
        for image in self.items.images:
            groups[with_text.smallest(image.node)].images.append(image)
        for other in self.items.others:
            groups[with_text.smallest(other)].has_others = True
        for line in lines:
            marked = with_sample if line.is_strong else with_image
            groups[marked.smallest(line.node)].lines.append(line)
        for group in groups.values():
            names = dict.fromkeys(i.sample.section for i in group.images if i not in self.tied)
            # What the catalogue knows is certain, and leaves fewer texts to the others.
            for name in sorted(names, key=lambda name: name not in self.known):
                self._tie_section(group, name)

    def _tie_section(self, group: _Group, name: str) -> None:
        """Tie the images of a section in one element to the texts that may be theirs."""
        known = self.known.get(name)
        images = [i for i in group.images if i not in self.tied and i.sample.section == name]
        rank, lines = self._best_lines(group, images, known)
        # A caption of the section belongs to no other; first of all to images without one of their own.
        is_first = all(lines[0].place <= image.place for image in group.images) if lines else False
        of_section = [i for i in group.images if i.sample.section == name]
        rivals = group.images if rank != _OF_SECTION else images if is_first else of_section
        keys = {image.sample.identity for image in rivals}
        is_only = rank == _OF_SECTION and known is not None and known.num_captions == 1
        is_alone = len(keys) == 1 and not (rank == _PLAIN and group.has_others)
        if len(lines) == 1:
            pairs = [(lines[0], image) for image in images] if is_alone or is_only else []
            self.headlines += [] if pairs else [(name, lines[0].shown)]
        else:
            pairs = _in_turn(lines, rivals) if rank != _PLAIN else []
        for line, image in pairs:
            is_open = image.sample.section == name and image not in self.tied
            if is_open and not self._is_crossed(line, image):
                shown = self._option_shown(image, [line.shown]) or (line.shown, line)
                self._tie(image, shown[0], rule=4, line=shown[1])

    def _best_lines(
        self, group: _Group, images: list[Image], known: Section | None
    ) -> tuple[int, list[Line]]:
        """The lines that may be captions of some images of a section: the most certain of them."""
        keys = {image.sample.identity for image in images}
        others: dict[str, set[object]] = defaultdict(set)
        for tie in (self.tied[image] for image in group.images if image in self.tied):
            others[comparable(tie.caption)].add(tie.url.identity)
        one_of_each = {image.figure: image for image in images}.values()
        ranked: dict[int, list[Line]] = defaultdict(list)
        for line in group.lines:
            said_of = self.said[line] | others[comparable(line.shown)]
            if not said_of - keys and all(self._may_be(line, i, known) for i in one_of_each):
                ranked[self._rank(line, known)].append(line)
        return min(ranked.items(), default=(_PLAIN, []), key=lambda item: item[0])

    def _may_be(self, line: Line, image: Image, known: Section | None) -> bool:
        """Whether a text may be an image's: it belongs to no other figure, section or key."""
        if line.figure not in (None, image.figure):
            return False
        if known is None or self._rank(line, known) == _OF_SECTION:
            return not line.gap
        is_option = self._option_shown(image, [line.shown]) is not None
        return is_option or (line.alignment is None and _shares_words(line.shown, known))

    def _rank(self, line: Line, known: Section | None) -> int:
        of_section = (
            known is not None
            and line.alignment is not None
            and (
                line.alignment.section is known
                or self.templates.align(line.tokens, name=known.name)
            )
        )
        return _OF_SECTION if of_section else _WITH_CHOICE if line.has_choice else _PLAIN

    def _is_crossed(self, line: Line, image: Image) -> bool:
        """Whether there is a whole figure between a text and an image."""
        low, high = sorted((line.place, image.place))
        at = bisect_left(self.items.figures, low, key=lambda figure: figure[0])
        after = islice(self.items.figures, at, None)
        between = [figure for place, figure in takewhile(lambda f: f[0] < high, after)]
        last = image.node if image.place == high else line.node
        around = {id(node) for node in upwards(last)} if between else set()
        return any(id(figure) not in around for figure in between)


@dataclass(slots=True)
class _Group:
    """Nodes that share the smallest element with both an image and a text."""

    lines: list[Line] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    has_others: bool = False


class _Marked:
    """The elements that contain one of some nodes."""

    def __init__(self, nodes: Iterable[Tag]) -> None:
        self.found: dict[int, int] = {}
        for node in nodes:
            fresh = takewhile(lambda up: id(up) not in self.found, upwards(node))
            self.found.update({id(up): id(up) for up in fresh})

    def smallest(self, node: Tag) -> int:
        """The id of the smallest of them around a node, 0 if there is none."""
        path = [id(up) for up in takewhile(lambda up: id(up) not in self.found, upwards(node))]
        top = next(islice(upwards(node), len(path), None), None)
        found = self.found.get(id(top), 0)
        self.found.update(dict.fromkeys(path, found))
        return found


class _Gaps:
    """The captions of a section that spread a slot out over images."""

    def __init__(self, lines: list[Line], name: str) -> None:
        gaps = (line for line in lines if line.gap is not None and line.gap.section.name == name)
        self.lines = list(islice(gaps, _MAX_GAPS))
        self.marked = _Marked(line.node for line in self.lines)
        self.inside: dict[int, list[Line]] = {}

    def only_around(self, node: Tag) -> Line | None:
        """The only one in the smallest element around a node that contains one; None if it has rivals."""
        place = self.marked.smallest(node)
        if place not in self.inside:
            self.inside[place] = [
                line for line in self.lines if any(id(up) == place for up in upwards(line.node))
            ]
        return self.inside[place][0] if len(self.inside[place]) == 1 else None


def _in_turn(lines: list[Line], images: list[Image]) -> list[tuple[Line, Image]]:
    """Each text with the images after it, if texts and the images of one key alternate; else none."""
    places = [line.place for line in lines]
    after: dict[int, list[Image]] = defaultdict(list)
    for image in images:
        after[bisect_left(places, image.place + 1) - 1].append(image)
    one_key_each = all(len({i.sample.identity for i in run}) == 1 for run in after.values())
    if sorted(after) != list(range(len(lines))) or not one_key_each:
        return []
    return [(lines[n], image) for n, run in after.items() for image in run]


def _is_candidate(line: Line, labels: Collection[str]) -> bool:
    says = _says_something(line.shown) or plain_quotes(line.shown) in labels
    is_text = line.is_strong or (line.is_prose and says)
    return is_text and len(line.shown) <= MAX_CAPTION_CHARS


def _says_something(text: str) -> bool:
    return any(w not in _SAYS_NOTHING and not w.isdigit() for w in words_of(text))


def _shares_words(text: str, known: Section) -> bool:
    """Whether a text can be a caption of a section, as far as its template is known."""
    shared = known.literal_words & set(words_of(text))
    return known.match(text) is not None or len(shared) >= _MIN_SHARED_WORDS * max(
        len(known.literal_words), 1
    )


def _pattern(line: Line) -> re.Pattern[str]:
    """The texts that a line's choices can be set to show."""
    parts = [
        re.escape(comparable(token.lower()))
        if isinstance(token, str)
        else "(?:" + "|".join(re.escape(comparable(fold(o))) for o in token.options) + ")"
        for token in line.tokens
    ]
    return re.compile(re.sub(r"(?:\\?\s)+", r"\\s+", "".join(parts)).strip())


def _column_head(node: Tag) -> str:
    """The text at the head of the table column that an image is in."""
    cell, row, table = (node.find_parent(names) for names in (["td", "th"], "tr", "table"))
    top = table.find("tr") if table is not None else None
    if cell is None or row is None or not isinstance(top, Tag) or top is row or top.find("img"):
        return ""
    cells, heads = (one.find_all(["td", "th"], recursive=False) for one in (row, top))
    place = next((n for n, one in enumerate(cells) if one is cell), len(heads))
    return heads[place].get_text(" ") if len(heads) == len(cells) > place else ""
