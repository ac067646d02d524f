"""Section templates and their captions.

A template is a caption with slots: `a {animal} made of {concept}. a {animal} with …`. Every combination of
options is a caption; a slot that occurs twice is one choice. Captions are in lower case, with white space
folded and the page's own quotes. A caption that still contains a brace when all slots are filled has a slot
that the page never filled: it is left out.

Nothing is expanded before it is needed: a template with 10^12 captions is counted, not built.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from importlib import resources
from itertools import product
from math import prod
from typing import Any

from scrapers.sources.dalleblog.articles import article_for
from scrapers.sources.dalleblog.urls import KeyKind, SampleUrl, parse_sample_url

# The template of a section that only has given captions: a slot that is never filled makes none.
NO_TEMPLATE = "{}"

_SLOT = re.compile(r"(?:\b(?P<article>an?) )?\{(?P<slot>[a-z_][a-z0-9_]*)\}")
_AN = re.compile(r"\ban\b")
_QUOTES = str.maketrans("‘’‚‛“”„‟`´", "''''\"\"\"\"''")


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenCaption:
    """A caption that is shown with an image, so that all its images can be requested.

    `address` is that image's URL, apart from its rank; `ranks` are the ranks (or frames) that were seen. A
    URL `from_catalogue` may be on another host. `linked_only`: no other ranks exist (a hand-made name; a
    query signed for one image).
    """

    caption: str
    address: SampleUrl
    ranks: tuple[int, ...] = ()
    from_catalogue: bool = False
    linked_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Section:
    """A caption template of the page, with what is known of its images.

    `slots` maps each slot of the template to its options. `axis` is the slot that the page spreads out as a
    row or column. `article` is the slot whose option determines its article, even if the template has none.
    `masked`: a part of each image was given. `given` are captions shown with their keys. `escaped`: the page
    percent-encodes the base64 of its keys.
    """

    name: str
    key: KeyKind
    template: str
    slots: Mapping[str, tuple[str, ...]]
    options_complete: bool = True
    axis: str | None = None
    article: str | None = None
    masked: bool = False
    image_prompt: str | None = None
    given: tuple[GivenCaption, ...] = ()
    escaped: bool = False
    note: str | None = field(default=None, compare=False)

    @property
    def num_captions(self) -> int:
        """The number of captions of the template, without building them."""
        if self.has_unfilled_slot:
            return 0
        return prod(len(options) for options in self.slots.values())

    @property
    def has_unfilled_slot(self) -> bool:
        """Whether a brace would be left in every caption."""
        return any(isinstance(part, str) and ("{" in part or "}" in part) for part in self.parts)

    def captions(self) -> Iterator[tuple[str, ...]]:
        """The forms of every caption, in order of the slots: see `forms`."""
        if self.has_unfilled_slot:
            return
        names = tuple(self.slots)
        for chosen in product(*self.slots.values()):
            yield self.forms(dict(zip(names, chosen, strict=True)))

    def forms(self, chosen: Mapping[str, str]) -> tuple[str, ...]:
        """The spellings of one caption: with the article that agrees with the word, then as written.

        One form if both are the same.
        """
        agreeing = "".join(_fill(part, chosen, agree=True) for part in self.parts)
        written = "".join(_fill(part, chosen, agree=False) for part in self.parts)
        return (agreeing,) if agreeing == written else (agreeing, written)

    def match(self, caption: str) -> dict[str, str] | None:
        """The options chosen in a caption, None if the template doesn't make it.

        Either article fits, and straight quotes fit typographic ones.
        """
        match = self._pattern.fullmatch(plain_quotes(caption))
        if match is None:
            return None
        return {name: self.plain_options[name][match[name]] for name in self.slots}

    @cached_property
    def plain_options(self) -> Mapping[str, Mapping[str, str]]:
        """Each slot's options by their spelling with ASCII quotes."""
        return {
            slot: {plain_quotes(option): option for option in reversed(options)}
            for slot, options in self.slots.items()
        }

    @cached_property
    def parts(self) -> tuple[str | SlotPart, ...]:
        """The template split into literal texts and slots, in order."""
        return tuple(_parse_template(self.template, self.slots, article=self.article))

    @cached_property
    def literal_words(self) -> frozenset[str]:
        """The words of the template outside of its slots."""
        return frozenset(w for part in self.parts if isinstance(part, str) for w in words_of(part))

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        seen: set[str] = set()
        pattern = ""
        for part in self.parts:
            if isinstance(part, str):
                pattern += re.escape(plain_quotes(part))
                continue
            optional = "?" if not part.written else ""
            article = f"(?:an? ){optional}" if part.written or part.agrees else ""
            options = "|".join(re.escape(plain_quotes(o)) for o in self.slots[part.slot])
            group = f"(?P={part.slot})" if part.slot in seen else f"(?P<{part.slot}>{options})"
            pattern += article + group
            seen.add(part.slot)
        return re.compile(pattern)


@dataclass(frozen=True, slots=True)
class SlotPart:
    """A slot's place in a template.

    `written` is the article before it in the template, with its space, or empty; `agrees` means that the
    article follows the option.
    """

    slot: str
    written: str
    agrees: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Catalogue:
    """The built-in table of the blog post: the URLs of page and CDN, and the sections."""

    page: str
    cdn: str
    sections: tuple[Section, ...]


def make_section(
    *, name: str, key: KeyKind, template: str, slots: Mapping[str, tuple[str, ...]], **more: Any
) -> Section:
    """A section with its captions normalised.

    Lower case, white space folded, no duplicate options, none that is empty or contains a brace, no slot that
    the template doesn't name.
    """
    template = fold(template)
    named = {match["slot"] for match in _SLOT.finditer(template)}
    cleaned = {
        slot: tuple(dict.fromkeys(o for o in map(fold, options) if o and not _has_brace(o)))
        for slot, options in slots.items()
        if slot in named
    }
    return Section(name=name, key=key, template=template, slots=cleaned, **more)


def fold(text: str) -> str:
    """A caption as in the blog's file names: lower case, white space folded, quotes kept."""
    return " ".join(text.lower().split())


def plain_quotes(text: str) -> str:
    """The same text with ASCII quotes, to compare captions; never to make a URL."""
    return text.replace("`", "'") if text.isascii() else text.translate(_QUOTES)


def comparable(caption: str) -> str:
    """A caption reduced for comparison: ASCII quotes, `a` for `an`."""
    return _AN.sub("a", plain_quotes(caption))


def same_caption(first: str, second: str) -> bool:
    """Whether two captions differ at most in their quotes and in `a` for `an`."""
    return comparable(first) == comparable(second)


def words_of(text: str) -> list[str]:
    """The words of a text, to compare captions."""
    return re.findall(r"\w+", plain_quotes(text))


@lru_cache(maxsize=1)
def load_catalogue() -> Catalogue:
    """The built-in catalogue, read once."""
    text = resources.files(__package__).joinpath("catalogue.json").read_text(encoding="utf-8")
    data = json.loads(text)
    sections = tuple(_section_of(row) for row in data["sections"])
    return Catalogue(page=data["page"].split()[0], cdn=data["cdn"], sections=sections)


def _section_of(row: Mapping[str, Any]) -> Section:
    return make_section(
        name=row["section"],
        key=row["key"],
        template=row["template"],
        slots={slot: tuple(options) for slot, options in row["slots"].items()},
        options_complete=row["options_complete"],
        axis=row.get("axis"),
        article=row.get("article"),
        masked=row.get("masked", False) or row["image_prompt"] is not None,
        image_prompt=row["image_prompt"],
        given=tuple(_given_of(sample) for sample in row["samples"]),
        note=row.get("note"),
    )


def _given_of(sample: Mapping[str, str]) -> GivenCaption:
    url = parse_sample_url(sample["url"])
    assert url is not None, sample["url"]
    ranks = () if url.rank is None else (url.rank,)
    return GivenCaption(
        caption=fold(sample["caption"]), address=url, ranks=ranks, from_catalogue=True
    )


def _parse_template(
    template: str, slots: Mapping[str, tuple[str, ...]], *, article: str | None
) -> Iterator[str | SlotPart]:
    end = 0
    for match in _SLOT.finditer(template):
        if match["slot"] not in slots:
            continue
        yield template[end : match.start()]
        written = "" if match["article"] is None else match["article"] + " "
        agrees = bool(written) or match["slot"] == article
        yield SlotPart(match["slot"], written, agrees)
        end = match.end()
    yield template[end:]


def _fill(part: str | SlotPart, chosen: Mapping[str, str], *, agree: bool) -> str:
    if isinstance(part, str):
        return part
    option = chosen[part.slot]
    if agree and part.agrees:
        has_its_own = not part.written and option.startswith(("a ", "an ", "the "))
        return option if has_its_own else f"{article_for(option)} {option}"
    return part.written + option


def _has_brace(text: str) -> bool:
    return "{" in text or "}" in text
