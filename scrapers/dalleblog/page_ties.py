"""Which picture belongs to which caption.

A base64 key spells its caption. For the other keys the page's layout decides, and a key must never
be tied to a wrong caption: it would label 32 images wrongly. In this order:

1. an alternative text that is a caption of the picture's section;
2. the caption in the smallest element that holds the picture and a caption that fits its section:
   the nearest before the picture, or after it where pictures come first. Of a caption with choices
   the picture shows the chosen options; where one slot is spread out over pictures, the label beside
   the picture is its option;
3. an alternative text that looks like a caption and stands with no other key.

What is tied to two captions is dropped, and what fits none is left out; both are reported.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from scrapers.dalleblog.alignment import Alignment, align
from scrapers.dalleblog.captions import Section, fold, plain_quotes, words_of
from scrapers.dalleblog.page_captions import (
    Entry,
    Visual,
    comparable,
    looks_like_caption,
    same_caption,
)
from scrapers.dalleblog.page_items import Line, Node, Picture, show
from scrapers.dalleblog.urls import SampleUrl, parse_sample_url

# How far from a picture its caption is looked for: in lines and pictures, in captions of other
# sections on the way, and in elements upwards.
_NEAR = 400
_MAX_STRANGERS = 64
_MAX_CLIMB = 64
# A caption that fits no template of its section's must share this part of its words.
_MIN_SHARED_WORDS = 0.6


@dataclass(frozen=True, slots=True)
class Tie:
    """A picture with its caption, and the visual of the page that it belongs to, if any."""

    caption: str
    url: SampleUrl
    visual: Visual | None


class Ties:
    """Ties the pictures of a page to its captions. `untied` and `conflicts` are what was left out."""

    def __init__(self, entries: list[Entry], sections: Mapping[str, Section]) -> None:
        self.entries = entries
        self.sections = sections
        self.untied: list[SampleUrl] = []
        self.conflicts: list[str] = []
        self._extents: dict[Node, tuple[int, int]] = {}
        self._fits: dict[tuple[int, str], bool] = {}
        self._at_visuals = [i for i, entry in enumerate(entries) if isinstance(entry, Visual)]
        self._at_pictures = [i for i, entry in enumerate(entries) if isinstance(entry, Picture)]
        self._alt_keys: dict[str, set[str]] = defaultdict(set)
        self._pictures = list(self._samples())
        for _, picture, url in self._pictures:
            self._alt_keys[fold(picture.alt)].add(url.key)

    def tie(self) -> list[Tie]:
        """Every picture that has a caption, in order of the page."""
        ties = []
        for index, picture, url in self._pictures:
            found = self._tie(index, picture, url)
            if found is None:
                self.untied.append(url)
            else:
                ties.append(found)
        return self._without_conflicts(ties)

    def _samples(self) -> Iterator[tuple[int, Picture, SampleUrl]]:
        for index in self._at_pictures:
            picture = self.entries[index]
            assert isinstance(picture, Picture)
            url = parse_sample_url(picture.url)
            if url is not None:
                yield index, picture, url

    def _tie(self, index: int, picture: Picture, url: SampleUrl) -> Tie | None:
        known = self._known(url)
        if url.caption is not None:
            return Tie(fold(url.caption), url, self._visual_spelt(index, url.caption, known))
        visual = self._visual_of(index, known)
        alt = fold(picture.alt)
        if self._is_caption_of(alt, url, visual):
            return Tie(alt, url, visual)
        if visual is not None:
            caption = self._caption_shown(index, visual, url)
            return None if caption is None else Tie(caption, url, visual)
        if looks_like_caption(alt) and len(self._alt_keys[alt]) == 1:
            return Tie(alt, url, None)
        return None

    def _known(self, url: SampleUrl) -> Section | None:
        return self.sections.get(url.section)

    def _is_caption_of(self, alt: str, url: SampleUrl, visual: Visual | None) -> bool:
        if not alt:
            return False
        known = self._known(url)
        if known is not None and known.match(alt) is not None:
            return True
        return visual is not None and _could_show(visual, alt, known)

    # --- The caption by layout ---------------------------------------------------------------

    def _visual_spelt(self, index: int, caption: str, known: Section | None) -> Visual | None:
        """The caption near a picture that can be set to what the picture's key spells.

        The key proves it: where the catalogue's template does not fit, the page's own is meant.
        """
        for section in (None,) if known is None else (known, None):
            visual = self._visual_of(index, section)
            if visual is not None and _could_show(visual, caption, section):
                return visual
        return None

    def _visual_of(self, index: int, known: Section | None) -> Visual | None:
        """The caption in the smallest element around the picture that holds one that fits."""
        low, high = index, index + 1
        node = self.entries[index].node
        for _ in range(_MAX_CLIMB):
            if node is None:
                return None
            before = low, high
            low, high = self._extent(node, low, high)
            found = None if before == (low, high) else self._nearest(index, low, high, known)
            if found is not None:
                return found
            node = node.parent
        return self._nearest(index, 0, len(self.entries), known)

    def _extent(self, node: Node, low: int, high: int) -> tuple[int, int]:
        """The entries within an element, which are neighbours, grown from some that are."""
        if node not in self._extents:
            while low > 0 and _is_within(self.entries[low - 1].node, node):
                low -= 1
            while high < len(self.entries) and _is_within(self.entries[high].node, node):
                high += 1
            self._extents[node] = low, high
        return self._extents[node]

    def _nearest(self, index: int, low: int, high: int, known: Section | None) -> Visual | None:
        before = self._captions_before(index, max(low, index - _NEAR), known)
        if before and not self._pictures_come_first(low, high):
            return _strongest(before)
        place = _first(self._at_visuals, index + 1, min(high, index + _NEAR))
        if place is None:
            return None
        after = self._visual(place)
        is_clear = (
            bool(before) or self._count(self._at_visuals, low, min(high, low + 2 * _NEAR)) == 1
        )
        return after if is_clear and self._fits_section(after, known) else None

    def _captions_before(self, index: int, low: int, known: Section | None) -> list[Visual]:
        """Captions that fit, nearest first: up to three weak ones, a strong one, or a picture."""
        found: list[int] = []
        at = bisect_left(self._at_visuals, index)
        for place in reversed(self._at_visuals[max(at - _MAX_STRANGERS, 0) : at]):
            if place < low or (found and self._count(self._at_pictures, place, found[0])):
                break
            visual = self._visual(place)
            if self._fits_section(visual, known):
                found.append(place)
                if not visual.weak or len(found) == 3:
                    break
        return [self._visual(place) for place in found]

    def _pictures_come_first(self, low: int, high: int) -> bool:
        """Whether an element starts with a picture and ends with a caption that is surely one."""
        near = min(high, low + _NEAR)
        picture, caption = (
            _first(places, low, near) for places in (self._at_pictures, self._at_visuals)
        )
        if picture is None or (caption is not None and caption < picture):
            return False
        near = max(low, high - _NEAR)
        picture, caption = (
            _last(places, near, high) for places in (self._at_pictures, self._at_visuals)
        )
        if caption is None or (picture is not None and picture > caption):
            return False
        return not self._visual(caption).weak

    def _visual(self, place: int) -> Visual:
        visual = self.entries[place]
        assert isinstance(visual, Visual)
        return visual

    def _count(self, places: list[int], low: int, high: int) -> int:
        return bisect_left(places, high) - bisect_left(places, low)

    def _fits_section(self, visual: Visual, known: Section | None) -> bool:
        """`fits_section`, each pair looked at once."""
        if known is None:
            return True
        place = id(visual), known.name
        if place not in self._fits:
            self._fits[place] = fits_section(visual, known)
        return self._fits[place]

    # --- What the picture shows of a caption with choices ---------------------------------------

    def _caption_shown(self, index: int, visual: Visual, url: SampleUrl) -> str | None:
        known = self._known(url)
        alignment = visual.alignment if known is None else align(known, visual.tokens)
        if alignment is None or alignment.gap is None:
            return visual.shown
        label = self._label(index, alignment)
        if label is None:
            return None
        chosen = {**alignment.chosen, alignment.gap: label}
        return alignment.section.forms(chosen)[0]

    def _label(self, index: int, alignment: Alignment) -> str | None:
        """The option of the spread-out slot that stands beside a picture."""
        assert alignment.gap is not None
        options = {plain_quotes(o): o for o in alignment.section.slots[alignment.gap]}
        picture = self.entries[index]
        if isinstance(picture, Picture) and plain_quotes(fold(picture.alt)) in options:
            return options[plain_quotes(fold(picture.alt))]
        low, high, node = index, index + 1, picture.node
        while node is not None:
            low, high = self._extent(node, low, high)
            inside = range(max(low, index - _NEAR), min(high, index + _NEAR))
            labels = [t for i in inside if (t := _label_text(self.entries[i])) in options]
            pictures = [i for i in inside if isinstance(self.entries[i], Picture)]
            if labels:
                paired = len(labels) == len(pictures)
                return options[labels[pictures.index(index)]] if paired else None
            node = node.parent
        return None

    # --- Doubts ------------------------------------------------------------------------------------

    def _without_conflicts(self, ties: list[Tie]) -> list[Tie]:
        """The ties without the keys that would stand for two captions."""
        captions: dict[tuple[str, str], set[str]] = defaultdict(set)
        for tie in ties:
            captions[tie.url.section, tie.url.key].add(comparable(tie.caption))
        doubtful = {key for key, said in captions.items() if len(said) > 1}
        self.conflicts = sorted(f"{section}/{key}" for section, key in doubtful)
        return [tie for tie in ties if (tie.url.section, tie.url.key) not in doubtful]


def _first(places: list[int], low: int, high: int) -> int | None:
    """The first of sorted places within [low, high)."""
    at = bisect_left(places, low)
    return places[at] if at < len(places) and places[at] < high else None


def _last(places: list[int], low: int, high: int) -> int | None:
    """The last of sorted places within [low, high)."""
    at = bisect_left(places, high)
    return places[at - 1] if at and places[at - 1] >= low else None


def _strongest(before: list[Visual]) -> Visual:
    """The nearest; but a caption with choices stands above plain lines that follow it."""
    strong = [visual for visual in before if not visual.weak]
    return strong[0] if strong else before[0]


def fits_section(visual: Visual, known: Section | None) -> bool:
    """Whether a caption can be one of a picture's section, as far as the catalogue knows it."""
    if known is None:
        return True
    if align(known, visual.tokens) is not None:
        return True
    if visual.alignment is not None:
        return False
    shared = known.literal_words & set(words_of(visual.shown))
    return len(shared) >= _MIN_SHARED_WORDS * max(len(known.literal_words), 1)


def _could_show(visual: Visual, caption: str, known: Section | None) -> bool:
    """Whether a visual's choices can be set so that it shows this caption."""
    if same_caption(visual.shown, fold(caption)):
        return True
    alignment = visual.alignment
    if alignment is not None and alignment.gap is not None and known is not None:
        return known.match(fold(caption)) is not None
    pattern = "".join(
        re.escape(comparable(token.lower()))
        if isinstance(token, str)
        else "(?:" + "|".join(re.escape(comparable(fold(o))) for o in token.options) + ")"
        for token in visual.tokens
    )
    pattern = re.sub(r"(?:\\?\s)+", r"\\s+", pattern).strip()
    return re.fullmatch(pattern, comparable(fold(caption))) is not None


def _label_text(entry: Entry) -> str:
    return plain_quotes(fold(show(entry.tokens))) if isinstance(entry, Line | Visual) else ""


def _is_within(node: Node | None, ancestor: Node) -> bool:
    for _ in range(2 * _MAX_CLIMB):
        if node is None or node is ancestor:
            break
        node = node.parent
    return node is ancestor
