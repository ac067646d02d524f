"""Page + catalogue → the sections to fetch, and the differences between the two.

The page is newer and has the spelling that URLs are made of; the catalogue remembers what the page may hide.
So the options of both are used, in the page's spelling if they differ in quotes; a template that doesn't
match the catalogue's is kept beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Literal

from scrapers.sources.dalleblog.captions import (
    Catalogue,
    GivenCaption,
    Section,
    comparable,
    fold,
    make_section,
    plain_quotes,
)
from scrapers.sources.dalleblog.page import PageContent, PageSection
from scrapers.sources.dalleblog.urls import url_template

Origin = Literal["page", "catalogue", "both"]

_SHOWN_IN_A_DIFFERENCE = 5


@dataclass(frozen=True, kw_only=True)
class MergedSection:
    """The templates of one section, in order, and whether page or catalogue named it."""

    name: str
    templates: tuple[Section, ...]
    origin: Origin
    catalogue_captions: int

    def makes(self, given: GivenCaption) -> bool:
        """Whether a template whose keys are computed makes a caption, in exactly this spelling."""
        if given.address.kind != "base64":
            return False
        return given.caption in self._plain_captions or any(
            (chosen := template.match(given.caption)) is not None
            and given.caption in template.forms(chosen)
            for template in self._templates_with_slots
        )

    def written(self, cdn: str) -> dict[str, str]:
        """URLs by caption that the page writes differently from how we would compute them."""
        given = (g for t in self.templates for g in t.given if not g.from_catalogue)
        spelt = (g for g in given if g.address.kind == "base64" and not g.linked_only)
        computed = {template.name: template.escaped for template in self.templates}
        return {
            g.caption: g.address.template
            for g in spelt
            if g.address.template
            != url_template(cdn, self.name, g.address.key, escaped=computed[self.name])
        }

    @cached_property
    def _plain_captions(self) -> frozenset[str]:
        return frozenset(t.template for t in self.templates if t.key == "base64" and not t.slots)

    @cached_property
    def _templates_with_slots(self) -> tuple[Section, ...]:
        return tuple(t for t in self.templates if t.key == "base64" and t.slots)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference between page and catalogue, as a sentence; a loss is something that was left out.

    `section` is None if it concerns all sections.
    """

    section: str | None
    text: str
    is_loss: bool = False


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What there is to fetch, the folder of its images, and the differences by section."""

    sections: tuple[MergedSection, ...]
    cdn: str
    differences: tuple[Difference, ...]
    has_page: bool

    def differences_of(self, names: Collection[str]) -> tuple[Difference, ...]:
        """The differences that concern some sections; those that name several sections come first."""
        chosen = [section for section in self.sections if section.name in names]
        missing = [s.name for s in chosen if s.origin == "catalogue"] if self.has_page else []
        new = [s.name for s in chosen if s.origin == "page"]
        texts = []
        if missing:
            texts.append(f"Not on the page, taken from the catalogue: {', '.join(missing)}.")
        if new:
            texts.append(f"Not in the catalogue, taken from the page: {', '.join(new)}.")
        mine = (one for one in self.differences if one.section is None or one.section in names)
        return (*(Difference(section=None, text=text) for text in texts), *mine)


def merge(catalogue: Catalogue, page: PageContent | None, *, cdn: str | None = None) -> Merged:
    """Merge page and catalogue; `cdn` is the user's choice and takes precedence.

    Without a page the catalogue is used alone.
    """
    found_cdn = cdn or (page.cdn if page else None) or catalogue.cdn
    known = {section.name: section for section in catalogue.sections}
    on_page: dict[str, list[PageSection]] = {}
    for shown in page.sections if page else ():
        on_page.setdefault(shown.section.name, []).append(shown)
    prompts = page.image_prompts if page else {}
    sections: list[MergedSection] = []
    differences: list[Difference] = []
    for name in dict.fromkeys((*known, *on_page)):
        shown_ones = on_page.get(name, [])
        templates = _merge_section(known.get(name), shown_ones, differences)
        origin: Origin = "both" if name in known else "page"
        sections.append(
            MergedSection(
                name=name,
                templates=tuple(_finish(t, prompts.get(name), found_cdn, cdn) for t in templates),
                origin=origin if shown_ones else "catalogue",
                catalogue_captions=known[name].num_captions if name in known else 0,
            )
        )
    if page:
        differences += _difference_of_cdn(page.cdn, catalogue.cdn, cdn)
        differences += (
            Difference(section=one.section, text=one.text, is_loss=True) for one in page.left_out
        )
    return Merged(
        sections=tuple(sections),
        cdn=found_cdn,
        differences=tuple(dict.fromkeys(differences)),
        has_page=page is not None,
    )


def _finish(section: Section, prompt: str | None, cdn: str, chosen_cdn: str | None) -> Section:
    """A section with its image prompt, and URLs that are absolute and on the chosen host."""
    prompt = prompt or section.image_prompt
    given = tuple(_on_host(one, cdn, always=chosen_cdn is not None) for one in section.given)
    return replace(
        section, given=given, image_prompt=prompt, masked=section.masked or prompt is not None
    )


def _on_host(given: GivenCaption, cdn: str, *, always: bool) -> GivenCaption:
    if given.from_catalogue or always or not given.address.cdn.startswith("http"):
        return replace(given, address=replace(given.address, cdn=cdn))
    return given


def _merge_section(
    known: Section | None, shown: list[PageSection], differences: list[Difference]
) -> list[Section]:
    """The templates of one section: the catalogue's merged with the page's, then others."""
    if known is None:
        return [one.section for one in shown]
    aligned = [one for one in shown if one.aligned]
    others = [one for one in shown if not one.aligned]
    differences += _differences_of_templates(known, others)
    differences += _differences_of_slots(known, aligned)
    kinds = {one.section.key for one in shown} - {known.key}
    if kinds:
        text = (
            f"Section '{known.name}': the page shows {', '.join(sorted(kinds))} keys, the catalogue "
            f"lists {known.key}; the page's are used."
        )
        differences.append(Difference(section=known.name, text=text, is_loss=True))
        known = replace(known, key=min(kinds))
    return [_overlay(known, aligned), *(one.section for one in others)]


def _overlay(known: Section, shown: list[PageSection]) -> Section:
    """The catalogue's section with the page's spelling, options and keys."""
    slots = {
        slot: _union([o for one in shown for o in one.section.slots.get(slot, ())], options)
        for slot, options in known.slots.items()
    }
    spelt = (one.section.template for one in shown if one.has_choice)
    whole = (t for t in spelt if all(f"{{{slot}}}" in t for slot in known.slots))
    given = _union_given([one.section.given for one in shown], known.given)
    merged = make_section(
        name=known.name, key=known.key, template=next(whole, known.template), slots=slots
    )
    escaped = any(one.section.escaped for one in shown)
    return replace(
        known, template=merged.template, slots=merged.slots, given=given, escaped=escaped
    )


def _union(page: Iterable[str], known: tuple[str, ...]) -> tuple[str, ...]:
    """Options of both, the page's first and in its spelling."""
    folded = dict.fromkeys(fold(option) for option in page)
    on_page = {plain_quotes(option) for option in folded}
    return (*folded, *(option for option in known if plain_quotes(option) not in on_page))


def _union_given(
    page: Iterable[tuple[GivenCaption, ...]], known: tuple[GivenCaption, ...]
) -> tuple[GivenCaption, ...]:
    """Captions with keys from both; the same key twice becomes one, with the ranks of both."""
    found: dict[tuple[str, str, str], GivenCaption] = {}
    for given in chain(*page, known):
        query = given.address.query if given.linked_only else ""
        place = comparable(given.caption), given.address.key, query
        before = found.get(place, given)
        found[place] = replace(before, ranks=tuple(sorted({*before.ranks, *given.ranks})))
    return tuple(found.values())


def _differences_of_templates(known: Section, others: list[PageSection]) -> Iterator[Difference]:
    """Captions of the page that the catalogue's template doesn't make."""
    for one in others:
        if one.has_choice:
            text = (
                f"Section '{known.name}': the page has '{one.section.template}', which the "
                f"catalogue's '{known.template}' doesn't match; both are requested."
            )
            yield Difference(section=known.name, text=text, is_loss=True)


def _differences_of_slots(known: Section, shown: list[PageSection]) -> Iterator[Difference]:
    """Options that only one of the two has, where the page offers a choice."""
    for slot, options in known.slots.items():
        lists = [one.section.slots.get(slot, ()) for one in shown if one.has_choice]
        here = {fold(option) for offered in lists for option in offered}
        if not here:
            continue
        plain_here = {plain_quotes(option): option for option in here}
        plain_known = {plain_quotes(option) for option in options}
        only_page = sorted(o for plain, o in plain_here.items() if plain not in plain_known)
        only_known = sorted(plain_known - set(plain_here))
        respelt = sorted(here - set(options) - set(only_page))
        for found, said in (
            (only_page, "only the page has"),
            (only_known, "only the catalogue has"),
            (respelt, "the page's quotes are kept:"),
        ):
            if found:
                text = f"Section '{known.name}', {slot}: {said} {_listed(found)}."
                yield Difference(section=known.name, text=text)


def _difference_of_cdn(page: str | None, catalogue: str, chosen: str | None) -> list[Difference]:
    if page is None or page == (chosen or catalogue):
        return []
    said = (
        f"{chosen} is used, as chosen."
        if chosen
        else f"the catalogue has {catalogue}; the page's is used."
    )
    return [
        Difference(
            section=None, text=f"The page shows images of {page}{';' if chosen else ','} {said}"
        )
    ]


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_SHOWN_IN_A_DIFFERENCE])
    more = len(names) - _SHOWN_IN_A_DIFFERENCE
    return f"{shown} and {more:,} more" if more > 0 else shown
