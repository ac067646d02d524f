"""The same facts in a script: JSON data with captions, options, keys and image addresses.

Nobody knows the shape of the data, so it is read by meaning, object by object:

- a string with an image's address is a picture; its caption is the string beside it that reads like
  one, else the one that its object hangs from (`{"a cube …": ["…/samples/…"]}`);
- a caption beside a bare key (32 hex digits, a number below 2^32), in an object or as name and
  value, is a given caption of the section that the object belongs to;
- a string with `{slots}`, or a list of strings and option lists, is a template; its options are
  lists of strings beside it, by name or in order.

The section is told by an address, by a value or a name that is a section's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from scrapers.dalleblog.captions import fold
from scrapers.dalleblog.page_captions import looks_like_caption
from scrapers.dalleblog.page_choices import Choice
from scrapers.dalleblog.page_items import Token
from scrapers.dalleblog.urls import (
    SampleUrl,
    addresses_in,
    is_plain_name,
    key_kind,
    parse_sample_url,
)
from scrapers.source import KeyKind

_PLACEHOLDER = re.compile(r"\{\{?\s*([\w-]+)\s*\}?\}|\[([\w-]+)\]|<([\w-]+)>")
_SECTION_NAMES = ("section", "slug", "id", "name", "visual", "key", "type")
_CHOSEN_NAMES = ("default", "selected", "value", "chosen")
_LABEL_NAMES = ("label", "text", "name", "value", "title")
# A number of this name is no key.
_NO_KEY = re.compile(r"time|date|creat|width|height|size|seed|version|count", re.IGNORECASE)
_MAX_DEPTH = 60
# Something assigned or passed that begins as JSON does: code mostly goes on in another way.
_VALUE_STARTS = re.compile(r"""[=(,]\s*(?=\{\s*["}]|\[\s*(?:["\[{\]]|-?[0-9]|null|true|false))""")
_MAX_SPENT_CHARS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class GivenKey:
    """A caption with its bare key; the address is the section's business."""

    section: str
    caption: str
    key: str


@dataclass(frozen=True, slots=True)
class DataTemplate:
    """A caption with choices, and the section that it stands in."""

    section: str | None
    tokens: tuple[Token, ...]


@dataclass
class ScriptFacts:
    """What the scripts of a page say. A picture's caption is None where nothing names it."""

    pictures: list[tuple[str | None, SampleUrl]] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    keys: list[GivenKey] = field(default_factory=list)
    templates: list[DataTemplate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Context:
    """Where a value hangs: the caption and the section above it."""

    caption: str | None = None
    section: str | None = None


def read_script(
    text: str, facts: ScriptFacts, *, base_url: str, sections: Mapping[str, KeyKind]
) -> None:
    """Add what a script says to `facts`. A script that is no data is searched for addresses.

    `sections` are the known sections, with the kind of their keys.
    """
    values = list(_json_values(text))
    for value in values:
        _Walk(facts, base_url, sections).read(value, _Context(), 0)
    if not values:
        for url in addresses_in(text.replace("\\/", "/"), base_url=base_url):
            _add_picture(facts, url, None)


def _json_values(text: str) -> Iterator[Any]:
    """The JSON of a script: all of it, or what is assigned (`window.DATA = {…}`)."""
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass
    decoder, start, spent_chars = json.JSONDecoder(), 0, 0
    while (match := _VALUE_STARTS.search(text, start)) is not None:
        try:
            value, start = decoder.raw_decode(text, match.end())
            yield value
        except (ValueError, RecursionError):
            start = match.end()
            # The error counts the lines before it: in a long program that is no data, for ever.
            spent_chars += start
            if spent_chars > _MAX_SPENT_CHARS:
                return


def _add_picture(facts: ScriptFacts, address: str, caption: str | None) -> None:
    url = parse_sample_url(address)
    if url is not None:
        facts.pictures.append((url.caption or caption, url))
    elif "image_prompts/" in address:
        facts.prompts.append(address)


class _Walk:
    def __init__(self, facts: ScriptFacts, base_url: str, sections: Mapping[str, KeyKind]) -> None:
        self.facts = facts
        self.base_url = base_url
        self.sections = sections

    def read(self, value: Any, context: _Context, depth: int) -> None:
        if depth > _MAX_DEPTH:
            return
        if isinstance(value, str):
            self._string(value, context)
        elif isinstance(value, dict):
            self._object(value, context, depth)
        elif isinstance(value, list):
            self._list(value, context, depth)

    def _string(self, text: str, context: _Context) -> None:
        for address in addresses_in(text, base_url=self.base_url):
            _add_picture(self.facts, address, context.caption)

    def _list(self, values: list[Any], context: _Context, depth: int) -> None:
        tokens = _tokens_of_list(values)
        if tokens is not None:
            self.facts.templates.append(DataTemplate(context.section, tokens))
            return
        for value in values:
            self.read(value, context, depth + 1)

    def _object(self, value: dict[str, Any], context: _Context, depth: int) -> None:
        section = self._section_of(value) or context.section
        template = next((t for v in value.values() if (t := _template_of(v, value))), None)
        captions = [fold(v) for v in value.values() if isinstance(v, str) and _is_caption(v)]
        own = captions[0] if len(set(captions)) == 1 else None
        here = _Context(own or context.caption, section)
        if template is not None:
            self.facts.templates.append(DataTemplate(section, template))
        if own is not None:
            self._give(own, section, [m for n, m in value.items() if not _NO_KEY.search(n)])
        for name, member in value.items():
            below = here
            if _is_caption(name):
                below = _Context(fold(name), section)
                self._give(fold(name), section, [member])
            elif name in self.sections:
                below = _Context(None, name)
            self.read(member, below, depth + 1)

    def _give(self, caption: str, section: str | None, beside: list[Any]) -> None:
        """A bare key that stands with a caption, if it is the only one of its section's kind."""
        if section is None:
            return
        texts = [str(m) for m in beside if isinstance(m, int | str) and not isinstance(m, bool)]
        kind = self.sections.get(section, "hex128")
        keys = {text for text in texts if key_kind(text) == kind and len(text) > 5}
        if kind in ("hex128", "uint32") and len(keys) == 1:
            self.facts.keys.append(GivenKey(section, caption, keys.pop()))

    def _section_of(self, value: Mapping[str, Any]) -> str | None:
        for member in value.values():
            if isinstance(member, str) and member in self.sections:
                return member
        addresses = (
            parse_sample_url(address)
            for member in value.values()
            for text in (member if isinstance(member, list) else [member])
            if isinstance(text, str)
            for address in addresses_in(text, base_url=self.base_url)
        )
        found = {address.section for address in addresses if address is not None}
        if len(found) == 1:
            return found.pop()
        named = value.get("section")
        return named if isinstance(named, str) and is_plain_name(named) else None


def _is_caption(text: str) -> bool:
    return looks_like_caption(text) and "/" not in text and not _PLACEHOLDER.search(text)


def _template_of(text: Any, beside: Mapping[str, Any]) -> tuple[Token, ...] | None:
    """A string with placeholders whose options stand beside it, as text and choices."""
    if not isinstance(text, str) or not (matches := list(_PLACEHOLDER.finditer(text))):
        return None
    names = list(dict.fromkeys(next(g for g in match.groups() if g) for match in matches))
    options = _options_beside(beside, names)
    if options is None:
        return None
    tokens: list[Token] = []
    end = 0
    for match in matches:
        name = next(g for g in match.groups() if g)
        tokens += [text[end : match.start()], Choice(options[name], 0, name, True)]
        end = match.end()
    return (*tokens, text[end:])


def _options_beside(
    beside: Mapping[str, Any], names: list[str]
) -> dict[str, tuple[str, ...]] | None:
    """Option lists by slot: in the object itself, in an object within it, or in a list, in order."""
    for holder in (beside, *beside.values()):
        if isinstance(holder, dict):
            found = {n: o for n in names if (o := _options_of(holder.get(n))) is not None}
            if len(found) == len(names):
                return found
        if isinstance(holder, list) and len(holder) == len(names):
            lists = [_options_of(member) for member in holder]
            if all(options is not None for options in lists):
                by_name = dict(zip(names, lists, strict=True))
                own = {_name_of(m): o for m, o in zip(holder, lists, strict=True)}
                chosen = own if set(own) == set(names) else by_name
                return {n: o for n in names if (o := chosen[n]) is not None}
    return None


def _tokens_of_list(values: list[Any]) -> tuple[Token, ...] | None:
    """A caption written as a list: strings, and objects or lists of options between them."""
    tokens: list[Token] = []
    for value in values:
        options = _options_of(value)
        if options is not None:
            tokens.append(_choice(value, options))
        elif isinstance(value, str):
            tokens += [" ", value, " "]
        elif isinstance(value, dict) and (text := _text_of(value)) is not None:
            tokens += [" ", text, " "]
        else:
            return None
    has_both = any(isinstance(t, Choice) for t in tokens) and any(
        isinstance(t, str) and t.strip() for t in tokens
    )
    return tuple(_tight(tokens)) if has_both else None


def _tight(tokens: list[Token]) -> Iterator[Token]:
    """No space before a full stop or comma that follows a choice."""
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else " "
        if token == " " and isinstance(following, str) and following[:1] in (".", ",", "’", "'"):
            continue
        yield token


def _choice(value: Any, options: tuple[str, ...]) -> Choice:
    chosen = 0
    if isinstance(value, dict):
        marked = next((value[n] for n in _CHOSEN_NAMES if n in value), 0)
        if isinstance(marked, str) and marked in options:
            chosen = options.index(marked)
        elif isinstance(marked, int) and 0 <= marked < len(options):
            chosen = marked
    return Choice(options, chosen, _name_of(value), True)


def _name_of(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    names = (value.get(name) for name in ("name", "slot", "id", "key"))
    return next((name for name in names if isinstance(name, str)), None)


def _options_of(value: Any) -> tuple[str, ...] | None:
    """The labels of an option list: strings, objects with a label, or an object holding them."""
    if isinstance(value, dict):
        lists = [member for member in value.values() if isinstance(member, list)]
        return _options_of(lists[0]) if len(lists) == 1 else None
    if not isinstance(value, list) or not value:
        return None
    labels = [item if isinstance(item, str) else _text_of(item) for item in value]
    found = tuple(label for label in labels if label is not None)
    is_text = len(found) == len(labels) and not any("/" in label for label in found)
    return found if is_text else None


def _text_of(value: Any) -> str | None:
    """What an object shows, if it is only a label."""
    if not isinstance(value, dict) or any(isinstance(v, dict | list) for v in value.values()):
        return None
    texts = (value.get(name) for name in _LABEL_NAMES)
    return next((text for text in texts if isinstance(text, str)), None)
