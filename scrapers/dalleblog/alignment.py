"""Is this line of the page a caption of that template? And which choice is which slot?

The page's line and the catalogue's template are laid over each other, literal text on literal text.
Either article fits before a slot, straight quotes fit typographic ones. A slot may meet

- a choice of the page: they are the same slot;
- text: the choice that the page repeats as text (`a <select>cat</select> … of a cat`), or an option
  that the page left no choice about;
- a gap (`…`, `___`, nothing), if the template spreads the slot out as a row of pictures.

Two choices that meet the same slot are one. A line that no known template fits makes its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from scrapers.dalleblog.captions import Section, SlotPart, fold, plain_quotes
from scrapers.dalleblog.page_choices import Choice
from scrapers.dalleblog.page_items import Token

# A choice in a skeleton: its number between two characters that no page keeps.
_CHOICE = re.compile("\0([0-9]+)\0")
# What marks a place left open: "…", "___", "[ ]", or nothing at all.
_GAP = r"(?:(?:[^\w\s\0]|_)(?:(?:[^\w\0]|_){0,10}(?:[^\w\s\0]|_))?)?"


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
    return _align(section, text, plain_quotes(text), choices)


def _align(section: Section, text: str, plain: str, choices: list[Choice]) -> Alignment | None:
    form = _form(_ById(section))
    match = form.pattern.fullmatch(plain)
    if match is None:
        return None
    places = [(slot, match.span(f"g{n}")) for n, slot in enumerate(form.slots)]
    found = _Found(section, choices)
    for slot, (start, end) in places:
        found.meet(slot, text[start:end])
    if not found.fits():
        return None
    for slot, (start, end) in reversed(places):
        space = " " if start == end else ""
        text = f"{text[:start]}{space}{{{slot}}}{space}{text[end:]}"
    return Alignment(
        section=section, template=fold(text), slots=found.slots, chosen=found.chosen, gap=found.gap
    )


class Templates:
    """The templates that a line may be a caption of."""

    def __init__(self, sections: tuple[Section, ...]) -> None:
        self.sections = sections
        self._needs = [(_form(_ById(section)).needs, section) for section in sections]

    def near(self, tokens: tuple[Token, ...]) -> Templates:
        """The templates whose longest piece of text is somewhere in these tokens."""
        plain = plain_quotes(skeleton(tokens)[0])
        return Templates(tuple(section for needs, section in self._needs if needs in plain))

    def align(self, tokens: tuple[Token, ...]) -> Alignment | None:
        """The section whose template fits the line, None if none does.

        Two sections may have the same words around their slots; the one that knows more of the
        line's options is meant.
        """
        text, choices = skeleton(tokens)
        plain = plain_quotes(text)
        near = [section for needs, section in self._needs if needs in plain]
        found = [a for s in near if (a := _align(s, text, plain, choices)) is not None]
        if len(found) > 1:
            return max(found, key=_known_options)
        return found[0] if found else None


def _known_options(alignment: Alignment) -> int:
    known = alignment.section.plain_options
    return sum(
        plain_quotes(fold(option)) in known[slot]
        for slot, options in alignment.slots.items()
        for option in options
    )


def name_slots(tokens: tuple[Token, ...]) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A template from a line that no known template fits, and the options of its slots.

    Two choices with the same options are one slot if the page gives them the same name, or no names
    and the same marked option; and so is a text of its own that repeats a chosen option.
    """
    template = ""
    slots: dict[str, tuple[str, ...]] = {}
    named: list[tuple[str, Choice]] = []
    for token in tokens:
        if isinstance(token, Choice):
            slot = next((s for s, other in named if _is_same(token, other)), None)
            slot = slot or f"slot{len(slots) + 1}"
            slots[slot] = token.options
            named.append((slot, token))
            template += f"{{{slot}}}"
        else:
            said = fold(token)
            repeated = next((s for s, c in named if len(said) > 2 and fold(c.text) == said), None)
            template += (
                token if repeated is None else token.lower().replace(said, f"{{{repeated}}}")
            )
    return template, slots


def _is_same(first: Choice, second: Choice) -> bool:
    if first.options != second.options:
        return False
    if first.name is not None or second.name is not None:
        return first.name == second.name
    return first.explicit and second.explicit and first.chosen == second.chosen


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
        elif slot == self.section.axis and not re.search(r"[^\W_]", text):
            self.gap = slot
        else:
            self.texts.append((slot, text))

    def fits(self) -> bool:
        """Whether every text that met a slot is one of its options."""
        for slot, text in self.texts:
            known = self.section.plain_options[slot]
            if self.chosen.get(slot) != text and plain_quotes(text) not in known:
                return False
            self.chosen.setdefault(slot, text)
            self.slots.setdefault(slot, (text,))
        return True


@dataclass(frozen=True, slots=True)
class _Form:
    """What a line must look like: a pattern, the slots of its groups g0, g1…, words it needs."""

    pattern: re.Pattern[str]
    slots: tuple[str, ...]
    needs: str


@lru_cache(maxsize=512)
def _form(section: _ById) -> _Form:
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
    literals = (plain_quotes(part).strip() for part in parts if isinstance(part, str))
    return _Form(re.compile(pattern), tuple(names), max(literals, key=len))


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
