"""Data in the scripts of the page → elements, so that one set of rules reads both.

The structure of the data is unknown. The members of an object become a `<div>`; a caption with URLs or a bare
key (32 hex digits, a number below 2^32) beside it becomes a `<figure>`; a string with `{slots}`, or a list of
strings and option lists, a `<p>` with choices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bs4 import BeautifulSoup, NavigableString, Tag

from pipeline.core.errors import SourceError
from scrapers.fetch.page_urls import clean_text
from scrapers.sources.dalleblog.templates import Choice, Token, Tokens
from scrapers.sources.dalleblog.urls import ADDRESS, KeyKind, key_kind

# The attributes of elements that we create: a section, and a key that has no URL.
SECTION, KEY = "samples:section", "samples:key"

MAX_TAGS = 600_000
_MAX_DEPTH = 60
# Something assigned or passed that begins like JSON; code mostly continues differently.
_VALUE_STARTS = re.compile(r"""[=(,]\s*(?=\{\s*["}]|\[\s*(?:["\[{\]]|-?[0-9]|null|true|false))""")
_MAX_SPENT_CHARS = 2_000_000_000
_PLACEHOLDER = re.compile(r"\{\{?\s*([\w-]+)\s*\}?\}|\[([\w-]+)\]|<([\w-]+)>")
# Under an unknown name, a text is a caption if it starts in lower case and has at least three words.
_CAPTION_LIKE = re.compile(r"[a-z0-9‘’'\"“](?=\S* \S+ +\S)[^{}<>|/]{8,2000}")
_CAPTION_NAMES = ("caption", "prompt", "alt")
_LABEL_NAMES = ("label", "text", "name", "value", "title")
# A number under one of these names is no key.
_NO_KEY = re.compile(r"time|date|creat|width|height|size|seed|version|count", re.IGNORECASE)


class ChoiceText(NavigableString):
    """A choice, as an element of the tree."""

    choice: Choice

    @classmethod
    def of(cls, choice: Choice) -> ChoiceText:
        """The text of a choice."""
        text = cls(choice.text)
        text.choice = choice
        return text


def data_elements(script: str, soup: BeautifulSoup, sections: Mapping[str, KeyKind]) -> list[Tag]:
    """The elements for a script's data; other scripts are searched for URLs.

    `sections` are the known ones with the kind of their keys.
    """
    if not any(mark in script for mark in ("samples", "image_prompts", "{", "[")):
        return []
    values = list(_json_values(script)) or [script.replace("\\/", "/")]
    writer = _Writer(soup, sections)
    return [element for value in values for element in writer.elements(value, None, 0)]


class _Writer:
    def __init__(self, soup: BeautifulSoup, sections: Mapping[str, KeyKind]) -> None:
        self.soup = soup
        self.sections = sections
        self.made = 0

    def tag(self, name: str, **attributes: str) -> Tag:
        """A new element; more than any blog post has are refused."""
        self.made += 1
        if self.made > MAX_TAGS:
            raise too_much("objects in its scripts", MAX_TAGS)
        return self.soup.new_tag(
            name, attrs={n.replace("_", ":"): a for n, a in attributes.items()}
        )

    def elements(self, value: Any, section: str | None, depth: int) -> list[Tag]:
        if isinstance(value, str) and ADDRESS.search(value):
            return [self.tag("img", src=clean_text(value))]
        if depth > _MAX_DEPTH or not isinstance(value, dict | list):
            return []
        if isinstance(value, dict):
            inside = list(self._object(value, section, depth))
        elif (tokens := _template_of_list(value)) is not None:
            inside = [self._paragraph(tokens, section)]
        else:
            inside = [e for item in value for e in self.elements(item, section, depth + 1)]
        return [self._around("div", inside)] if inside else []

    def _object(self, value: dict[str, Any], section: str | None, depth: int) -> Iterator[Tag]:
        named = [v for v in value.values() if isinstance(v, str) and v in self.sections]
        section = next(iter(named), None) or str(value.get("section") or section or "") or None
        templates = (_template(text, value) for text in value.values())
        if (template := next(filter(None, templates), None)) is not None:
            yield self._paragraph(template, section)
        own = {n: m for n, m in value.items() if _is_text(m) and not _CAPTION_LIKE.fullmatch(n)}
        beside = [m for n, m in own.items() if not _NO_KEY.search(n)]
        yield from self._figure(_caption_of(value), beside, section)
        for name, member in value.items():
            if _CAPTION_LIKE.fullmatch(name):
                yield from self._figure(name, [member], section)
            elif name not in own:
                below = name if name in self.sections else section
                yield from self.elements(member, below, depth + 1)

    def _figure(self, caption: str | None, beside: list[Any], section: str | None) -> list[Tag]:
        """A caption and what is beside it: a figure if that is a URL or a key."""
        texts = [t for m in beside for t in (m if isinstance(m, list) else [m])]
        images = [image for text in texts for image in self.elements(text, section, 0)]
        if caption is not None and section is not None:
            keys = self._keys(texts, section)
            images += [self.tag("img", samples_key=f"{section}/{key}") for key in keys]
        if caption is None:
            return images
        if not images:
            return [self._around("p", [_clean(caption)])]
        return [self._around("figure", [self._around("figcaption", [_clean(caption)]), *images])]

    def _paragraph(self, tokens: Tokens, section: str | None) -> Tag:
        texts = [token if isinstance(token, str) else ChoiceText.of(token) for token in tokens]
        return self._around("p", texts, samples_section=section or "")

    def _around(self, name: str, inside: Sequence[Tag | str], **attributes: str) -> Tag:
        element = self.tag(name, **attributes)
        element.extend(inside)
        return element

    def _keys(self, beside: list[Any], section: str) -> list[str]:
        """The bare key beside a caption, if it is the only one of its section's kind."""
        kind = self.sections.get(section, "hex128")
        texts = [str(m) for m in beside if isinstance(m, int | str) and not isinstance(m, bool)]
        keys = {text for text in texts if len(text) > 5 and key_kind(text) == kind}
        return list(keys) if kind in ("hex128", "uint32") and len(keys) == 1 else []


def _json_values(text: str) -> Iterator[Any]:
    """The JSON of a script: all of it, or what is assigned (`window.DATA = {…}`)."""
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass
    decoder, start, spent_chars = json.JSONDecoder(), 0, 0
    while spent_chars < _MAX_SPENT_CHARS and (match := _VALUE_STARTS.search(text, start)):
        try:
            value, start = decoder.raw_decode(text, match.end())
            yield value
        except (ValueError, RecursionError):
            start = match.end()
            # The error counts the lines before it: in a long program without data, that takes forever.
            spent_chars += start


def _is_text(value: Any) -> bool:
    """Whether a member describes the object itself: a text, a number, or a list of texts."""
    return isinstance(value, str | int) or (
        isinstance(value, list) and all(isinstance(item, str) for item in value)
    )


def _caption_of(value: Mapping[str, Any]) -> str | None:
    """The caption of an object: by its name, else its only text that reads like one."""
    texts = {n: v for n, v in value.items() if isinstance(v, str) and not _PLACEHOLDER.search(v)}
    named = [texts[n] for n in _CAPTION_NAMES if texts.get(n, "").strip()]
    like = list(dict.fromkeys(v for v in texts.values() if _CAPTION_LIKE.fullmatch(v)))
    return named[0] if named else like[0] if len(like) == 1 else None


def _template(text: Any, beside: Mapping[str, Any]) -> Tokens | None:
    """A text with placeholders whose options are beside it under their names, as text and choices."""
    if not isinstance(text, str) or not (matches := list(_PLACEHOLDER.finditer(text))):
        return None
    names = [next(filter(None, match.groups())) for match in matches]
    holders = [holder for holder in (beside, *beside.values()) if isinstance(holder, dict)]
    found = ({n: o for n in names if (o := _options(h.get(n)))} for h in holders)
    options = next((by_name for by_name in found if len(by_name) == len(set(names))), None)
    if options is None:
        return None
    texts = _PLACEHOLDER.sub("\0", _clean(text)).split("\0")
    choices = [Choice(options[name], name=name, explicit=True) for name in names]
    return *(t for pair in zip(texts, choices, strict=False) for t in pair), texts[-1]


def _template_of_list(values: list[Any]) -> Tokens | None:
    """A caption given as a list of its pieces: texts and option lists, in order."""
    tokens: list[Token] = []
    for value in values:
        lists = [m for m in value.values() if _options(m)] if isinstance(value, dict) else [value]
        options = _options(lists[0]) if len(lists) == 1 else ()
        if not options and not isinstance(value, str):
            return None
        tokens.append(Choice(options) if options else f" {_clean(value)} ")
    return tuple(tokens) if {type(token) for token in tokens} == {str, Choice} else None


def _options(value: Any) -> tuple[str, ...]:
    """The labels of a list: strings, or objects with a label; empty if it has none."""
    if not isinstance(value, list):
        return ()
    objects = [item if isinstance(item, dict) else {"label": item} for item in value]
    labels = [next((o[n] for n in _LABEL_NAMES if isinstance(o.get(n), str)), "") for o in objects]
    is_list = all(label and "/" not in label for label in labels)
    return tuple(map(_clean, labels)) if is_list else ()


def too_much(what: str, most: int) -> SourceError:
    """The refusal of a page that has more than any blog post would."""
    return SourceError(
        f"The page has more than {most:,} {what}, which no blog post has. Save the right page from a "
        "browser and pass --page FILE, or leave it out (--no-page)."
    )


def _clean(text: str) -> str:
    return clean_text(text).replace("\0", "\ufffd")
