"""Sections → the captions to fetch, each with its forms, its ranks and its URLs; lazily.

A section with base64 keys has every caption of its template; others only have the captions that the page or
the catalogue shows with a key, which is valid for all ranks. A key that is a hand-made name is only valid for
the images that were linked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType

from pipeline.core.errors import SourceError
from scrapers.source import CaptionForm, CaptionPlan
from scrapers.sources.dalleblog.captions import GivenCaption, Section
from scrapers.sources.dalleblog.merge import MergedSection
from scrapers.sources.dalleblog.urls import RANKS, base64_key, url_template

# The blog has about 30,000; more than this is a page that was misread, or a trap.
MAX_CAPTIONS = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Plans:
    """The plans of some sections, generated each time they are iterated over."""

    sections: tuple[MergedSection, ...]
    cdn: str
    limit: int | None = None

    def __iter__(self) -> Iterator[CaptionPlan]:
        every = (plan for s in self.sections for plan in section_plans(s, cdn=self.cdn))
        return every if self.limit is None else islice(every, self.limit)

    def counts(self, *, refuse: bool = True) -> dict[str, tuple[int, int]]:
        """Captions and URLs of each section within the limit.

        Raises SourceError if there are too many captions and no limit, unless `refuse` is False.
        """
        counts: dict[str, tuple[int, int]] = {}
        left = self.limit
        for section in self.sections:
            if left is not None and left < 1:
                break
            captions, urls = _count(section, cdn=self.cdn, limit=left)
            counts[section.name] = captions, urls
            left = None if left is None else left - captions
        total = sum(captions for captions, _ in counts.values())
        if refuse and self.limit is None and total > MAX_CAPTIONS:
            raise SourceError(_too_many(counts, total))
        return counts


def count_plans(plans: Iterable[CaptionPlan]) -> dict[str, tuple[int, int]]:
    """Captions and URLs of each section among some plans."""
    counts: dict[str, tuple[int, int]] = {}
    for plan in plans:
        captions, urls = counts.get(plan.section, (0, 0))
        counts[plan.section] = captions + 1, urls + len(plan.ranks)
    return counts


def section_plans(section: MergedSection, *, cdn: str) -> Iterator[CaptionPlan]:
    """The plans of one section: its templates' captions, then the given captions beyond them."""
    ranks, linked, written = _ranks(section), _linked(section), section.written(cdn)
    for template in section.templates:
        if template.key == "base64":
            for forms in template.captions():
                if not linked or linked.isdisjoint(forms):
                    yield computed_plan(template, forms, cdn=cdn, ranks=ranks, written=written)
        for given in _beyond_templates(section, template):
            yield given_plan(template, given, ranks=ranks)


def computed_plan(
    section: Section,
    forms: tuple[str, ...],
    *,
    cdn: str,
    ranks: tuple[int, ...] = RANKS,
    written: Mapping[str, str] = MappingProxyType({}),
) -> CaptionPlan:
    """The plan of a caption whose key is computed from each of its forms.

    `written` are URLs by caption that the page writes differently.
    """

    def address(caption: str) -> str:
        key = base64_key(caption)
        return written.get(caption) or url_template(cdn, section.name, key, escaped=section.escaped)

    return CaptionPlan(
        section=section.name,
        forms=tuple(CaptionForm(caption=c, url_template=address(c)) for c in forms),
        ranks=ranks,
        masked=section.masked,
    )


def given_plan(section: Section, given: GivenCaption, *, ranks: tuple[int, ...]) -> CaptionPlan:
    """The plan of a caption that was shown with its key."""
    serves_no_other = given.address.kind == "name" or given.linked_only
    return CaptionPlan(
        section=section.name,
        forms=(CaptionForm(caption=given.caption, url_template=given.address.template),),
        ranks=(given.ranks or (0,)) if serves_no_other else ranks,
        masked=section.masked,
    )


def _linked(section: MergedSection) -> frozenset[str]:
    """The captions whose images have no URLs other than those that were linked."""
    given = (one for template in section.templates for one in template.given if one.linked_only)
    return frozenset(one.caption for one in given if section.makes(one))


def _ranks(section: MergedSection) -> tuple[int, ...]:
    """0 to 31, and higher ones that were seen: some sections number frames instead."""
    seen = {rank for t in section.templates for given in t.given for rank in given.ranks}
    return tuple(sorted({*RANKS, *seen})) if seen - {*RANKS} else RANKS


def _beyond_templates(section: MergedSection, template: Section) -> Iterator[GivenCaption]:
    """The given captions that no template of the section makes, in exactly this spelling."""
    for given in template.given:
        has_unfilled_slot = "{" in given.caption or "}" in given.caption
        if not has_unfilled_slot and (given.linked_only or not section.makes(given)):
            yield given


def _count(section: MergedSection, *, cdn: str, limit: int | None) -> tuple[int, int]:
    """Captions and URLs of a section within the limit; templates are not expanded."""
    if limit is not None:
        plans = islice(section_plans(section, cdn=cdn), max(limit, 0))
        sizes = [len(plan.ranks) for plan in plans]
        return len(sizes), sum(sizes)
    computed = sum(t.num_captions for t in section.templates if t.key == "base64")
    computed -= len(_linked(section))
    ranks = _ranks(section)
    given = [
        len(given_plan(t, one, ranks=ranks).ranks)
        for t in section.templates
        for one in _beyond_templates(section, t)
    ]
    return computed + len(given), computed * len(ranks) + sum(given)


def _too_many(counts: dict[str, tuple[int, int]], total: int) -> str:
    name, (most, _) = max(counts.items(), key=lambda item: item[1][0])
    return (
        f"The page offers {total:,} captions, {most:,} of them in section '{name}'; the blog has "
        f"about 30,000, and more than {MAX_CAPTIONS:,} are refused. Choose with --limit N, "
        "--sections or --captions, or check the page."
    )
