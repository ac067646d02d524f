"""Is this line of the page a caption of that template? And which choice is which slot?

The page's line and the catalogue's template are laid over each other, literal text on literal text.
Either article fits before a slot, straight quotes fit typographic ones. A slot may meet

- a choice of the page: they are the same slot;
- text: the choice that the page repeats as text (`a <select>cat</select> … of a cat`), or an option
  that the page left no choice about;
- a gap (`…`, `___`, nothing), if the template spreads the slot out as a row of pictures.

Two choices that meet the same slot are one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from scrapers.dalleblog.captions import Section, SlotPart, fold, plain_quotes
from scrapers.dalleblog.page_items import Choice, Token

# A choice in a skeleton: its number between two characters that no page keeps.
_CHOICE = re.compile("\0([0-9]+)\0")
_GAP = r"[^\w\0]{0,12}"


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """A line laid over a section's template.

    `template` is the line with slots in it, in its own spelling; `slots` the page's options by slot;
    `chosen` what the line shows; `gap` the slot that is spread out over pictures.
    """

    section: Section
    template: str
    slots: Mapping[str, tuple[str, ...]]
    chosen: Mapping[str, str] = field(default_factory=dict)
    gap: str | None = None


def skeleton(tokens: tuple[Token, ...]) -> tuple[str, list[Choice]]:
    """A line with its choices numbered, folded, and the choices."""
    choices: list[Choice] = []
    text = ""
    for token in tokens:
        if isinstance(token, str):
            text += token
        else:
            text += f"\0{len(choices)}\0"
            choices.append(token)
    return fold(text), choices


def align(section: Section, tokens: tuple[Token, ...]) -> Alignment | None:
    """Lay a line over the section's template; None if it does not fit."""
    text, choices = skeleton(tokens)
    pattern, names = _pattern(_ById(section))
    match = pattern.fullmatch(plain_quotes(text))
    if match is None:
        return None
    places = [(slot, match.span(f"g{n}")) for n, slot in enumerate(names)]
    found = _Found(section, choices)
    for slot, (start, end) in places:
        found.meet(slot, text[start:end])
    if not found.fits():
        return None
    for slot, (start, end) in reversed(places):
        text = f"{text[:start]}{{{slot}}}{text[end:]}"
    return Alignment(
        section=section, template=text, slots=found.slots, chosen=found.chosen, gap=found.gap
    )


def align_any(sections: tuple[Section, ...], tokens: tuple[Token, ...]) -> Alignment | None:
    """The first section whose template fits the line, None if none does."""
    return next((found for s in sections if (found := align(s, tokens)) is not None), None)


class _ById:
    """A section as a key of the cache: hashing its options would cost more than matching."""

    def __init__(self, section: Section) -> None:
        self.section = section

    def __hash__(self) -> int:
        return id(self.section)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.section is self.section


class _Found:
    """What the slots of a template have met so far."""

    def __init__(self, section: Section, choices: list[Choice]) -> None:
        self.section = section
        self.choices = choices
        self.slots: dict[str, tuple[str, ...]] = {}
        self.chosen: dict[str, str] = {}
        self.gap: str | None = None
        self.texts: list[tuple[str, str]] = []

    def meet(self, slot: str, text: str) -> None:
        number = _CHOICE.fullmatch(text)
        if number is not None:
            choice = self.choices[int(number[1])]
            self.slots[slot] = tuple(dict.fromkeys((*self.slots.get(slot, ()), *choice.options)))
            self.chosen[slot] = fold(choice.text)
        elif slot == self.section.axis and not re.search(r"\w", text):
            self.gap = slot
        else:
            self.texts.append((slot, text))

    def fits(self) -> bool:
        """Whether every text that met a slot is one of its options."""
        for slot, text in self.texts:
            known = {plain_quotes(option) for option in self.section.slots[slot]}
            if self.chosen.get(slot) != text and plain_quotes(text) not in known:
                return False
            self.chosen.setdefault(slot, text)
            self.slots.setdefault(slot, (text,))
        return True


@lru_cache(maxsize=512)
def _pattern(section: _ById) -> tuple[re.Pattern[str], list[str]]:
    """A section's pattern and the slot of each of its groups g0, g1…"""
    parts = section.section.parts
    names = [part.slot for part in parts if isinstance(part, SlotPart)]
    pattern, n = "", 0
    for part in parts:
        if isinstance(part, str):
            pattern += _loose(part)
            continue
        article = "(?:an? )?" if part.written or part.agrees else ""
        meets = "|".join(_what_meets(section.section, part.slot, names.count(part.slot) > 1))
        pattern += f"{article}(?P<g{n}>{meets})"
        n += 1
    return re.compile(pattern), names


def _what_meets(section: Section, slot: str, repeated: bool) -> list[str]:
    """What may stand in a slot's place. Text is bounded, so that long lines fail fast."""
    options = [re.escape(plain_quotes(option)) for option in section.slots[slot]]
    gap = [_GAP] if slot == section.axis else []
    return ["\0[0-9]+\0", *options, *(["[^\0]{1,60}?"] if repeated else []), *gap]


def _loose(literal: str) -> str:
    """A literal's pattern; the space beside a slot may be missing, where the slot is a gap."""
    text = plain_quotes(literal)
    words = re.escape(text.strip())
    head = r"\s*" if text[:1].isspace() else ""
    tail = r"\s*" if text[-1:].isspace() and words else ""
    return head + words + tail
