"""Captions with choices: matched with the catalogue's templates, or made into new templates.

A line of the page (text and choices, in order) is matched with a template, literal text with literal text.
Either article fits before a slot, straight quotes fit typographic ones. A slot may match a choice of the
page, an option as text, the repeated text of a choice, or, if the template spreads it out as a row of images,
a gap (`…`, `___`, nothing).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from scrapers.sources.dalleblog.captions import Catalogue, Section, SlotPart, fold, plain_quotes

# A choice in a line: its number between two characters that no page contains.
_CHOICE = re.compile("\0([0-9]+)\0")
# What marks a gap: "…", "___", "[ ]", or nothing at all.
_GAP = r"(?:(?:[^\w\s\0]|_)(?:(?:[^\w\0]|_){0,10}(?:[^\w\s\0]|_))?)?"


@dataclass(frozen=True, slots=True)
class Choice:
    """A `<select>` in a line: its options, the index of the chosen one, and a name that links it."""

    options: tuple[str, ...]
    chosen: int = 0
    name: str | None = None
    explicit: bool = False  # an option is marked as selected

    @property
    def text(self) -> str:
        """The option that the page shows."""
        return self.options[self.chosen]


Token = str | Choice
Tokens = tuple[Token, ...]


def show(tokens: Tokens) -> str:
    """The caption that a line shows, folded."""
    return fold("".join(token if isinstance(token, str) else token.text for token in tokens))


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """The match of a line with a section's template.

    `template` is the line with slots in it, in its own spelling; `slots` the page's options by slot; `chosen`
    the options that the line shows; `gap` the slot that is spread out over images.
    """

    section: Section
    template: str
    slots: Mapping[str, tuple[str, ...]]
    chosen: Mapping[str, str]
    gap: str | None


class Templates:
    """The catalogue's templates, which a line may match."""

    def __init__(self, sections: tuple[Section, ...]) -> None:
        self.by_name = {section.name: section for section in sections}
        self._forms = [_form(section) for section in sections]

    def align(self, tokens: Tokens, *, name: str | None = None) -> Alignment | None:
        """The match of the line with the template that fits (of the section `name`), None if none does.

        Two sections may have the same words around their slots; the one that has more of the line's options
        is meant.
        """
        text, choices = _number_choices(tokens)
        plain = plain_quotes(text)
        near = (f for f in self._forms if f.needs in plain and name in (None, f.section.name))
        found = [a for form in near if (a := _lay(form, text, plain, choices)) is not None]
        return max(found, key=_known_options, default=None)


@lru_cache(maxsize=1)
def templates_of(catalogue: Catalogue) -> Templates:
    """The templates of a catalogue, prepared once: that takes longer than reading a small page."""
    return Templates(catalogue.sections)


def name_slots(tokens: Tokens) -> tuple[str, dict[str, tuple[str, ...]]]:
    """A template from a line that no known template fits, and the options of its slots.

    Two choices with the same options are one slot if the page gives them the same name, or no names and the
    same marked option; so is a text that repeats a chosen option.
    """
    template = ""
    slots: dict[str, tuple[str, ...]] = {}
    named: list[tuple[str, Choice]] = []
    for token in tokens:
        if isinstance(token, Choice):
            slot = next(
                (s for s, other in named if _is_same(token, other)), f"slot{len(slots) + 1}"
            )
            slots[slot] = token.options
            named.append((slot, token))
            template += f"{{{slot}}}"
            continue
        said = fold(token)
        repeated = next((s for s, c in named if len(said) > 2 and fold(c.text) == said), None)
        template += token if repeated is None else token.lower().replace(said, f"{{{repeated}}}")
    return template, slots


def _is_same(first: Choice, second: Choice) -> bool:
    if first.options != second.options or first.name != second.name:
        return False
    is_marked = first.explicit and second.explicit and first.chosen == second.chosen
    return first.name is not None or is_marked


def _number_choices(tokens: Tokens) -> tuple[str, list[Choice]]:
    """A line with its choices numbered, folded, and the choices."""
    choices = [token for token in tokens if isinstance(token, Choice)]
    numbers = iter(range(len(choices)))
    return fold(
        "".join(t if isinstance(t, str) else f"\0{next(numbers)}\0" for t in tokens)
    ), choices


class _Form(NamedTuple):
    """The pattern of a section's lines: the slots of its groups g0, g1…, words it needs."""

    section: Section
    pattern: re.Pattern[str]
    slots: tuple[str, ...]
    needs: str


def _form(section: Section) -> _Form:
    names = [part.slot for part in section.parts if isinstance(part, SlotPart)]
    pattern, n = "", 0
    for part in section.parts:
        if isinstance(part, str):
            pattern += _loose(part)
            continue
        options = [re.escape(plain_quotes(option)) for option in section.slots[part.slot]]
        # Text that repeats a choice is bounded, so that long lines fail fast.
        repeats = ["[^\0]{1,60}?"] if names.count(part.slot) > 1 else []
        meets = ["\0[0-9]+\0", *options, *repeats, *([_GAP] if part.slot == section.axis else [])]
        article = "(?:an? )?" if part.written or part.agrees else ""
        pattern += f"{article}(?P<g{n}>{'|'.join(meets)})"
        n += 1
    literals = (plain_quotes(part).strip() for part in section.parts if isinstance(part, str))
    return _Form(section, re.compile(pattern), tuple(names), max(literals, key=len))


def _loose(literal: str) -> str:
    """A literal's pattern; the space beside a slot may be missing, where the slot is a gap."""
    text = plain_quotes(literal)
    words = re.escape(text.strip())
    tail = r"\s*" if text[-1:].isspace() and words else ""
    return (r"\s*" if text[:1].isspace() else "") + words + tail


def _lay(form: _Form, text: str, plain: str, choices: list[Choice]) -> Alignment | None:
    match = form.pattern.fullmatch(plain)
    if match is None:
        return None
    section, gap = form.section, None
    slots: dict[str, tuple[str, ...]] = {}
    chosen: dict[str, str] = {}
    texts: list[tuple[str, str]] = []
    template, end = "", 0
    for n, slot in enumerate(form.slots):
        start, here = match.span(f"g{n}")
        said = text[start:here]
        space = "" if said else " "
        template += f"{text[end:start]}{space}{{{slot}}}{space}"
        end = here
        if number := _CHOICE.fullmatch(said):
            choice = choices[int(number[1])]
            slots[slot] = tuple(dict.fromkeys((*slots.get(slot, ()), *choice.options)))
            chosen[slot] = fold(choice.text)
        elif slot == section.axis and not re.search(r"[^\W_]", said):
            gap = slot
        else:
            texts.append((slot, said))
    for slot, said in texts:
        if chosen.get(slot) != said and plain_quotes(said) not in section.plain_options[slot]:
            return None
        chosen.setdefault(slot, said)
        slots.setdefault(slot, (said,))
    template = fold(template + text[end:])
    return Alignment(section=section, template=template, slots=slots, chosen=chosen, gap=gap)


def _known_options(alignment: Alignment) -> int:
    known = alignment.section.plain_options
    return sum(
        plain_quotes(fold(option)) in known[slot]
        for slot, options in alignment.slots.items()
        for option in options
    )
