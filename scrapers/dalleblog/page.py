"""The blog post → its sections: templates, options, image prompts, and the keys that it shows.

Read by meaning (see `page_items`, `page_captions`, `page_ties`, `page_json`), for the post has been
through several designs and its exact HTML is not known. The catalogue helps to recognise captions;
what the page says is kept apart from it here and merged in `merge`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from pipeline.errors import SourceError
from scrapers.dalleblog.alignment import Alignment, Templates, align, name_slots
from scrapers.dalleblog.captions import (
    NO_TEMPLATE,
    Catalogue,
    GivenCaption,
    Section,
    fold,
    make_section,
)
from scrapers.dalleblog.page_captions import Visual, comparable, find_captions
from scrapers.dalleblog.page_choices import Choice
from scrapers.dalleblog.page_items import Picture, Script, Token, read_items
from scrapers.dalleblog.page_json import DataTemplate, ScriptFacts, read_script
from scrapers.dalleblog.page_ties import Tie, Ties, fits_section
from scrapers.dalleblog.urls import SampleUrl, is_plain_name, key_kind
from scrapers.source import KeyKind

# A caption with more keys than this is no caption but a headline over many pictures.
_MAX_KEYS_OF_A_CAPTION = 8
_MAX_NOTES = 30


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A caption template as the page shows it; `aligned` if its slots are those of the catalogue.

    `has_choice`: it can be set, so its articles are the template's and not those of one caption.
    """

    section: Section
    aligned: bool
    has_choice: bool = False


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """What a page says: its sections in order, the folder of its images, and what was left out."""

    sections: tuple[PageSection, ...]
    cdn: str | None
    image_prompts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_page(body: bytes, *, base_url: str, catalogue: Catalogue) -> PageContent:
    """Read the blog post from its HTML.

    `base_url` is the page's address. Raises SourceError if neither captions nor images are found.
    """
    templates = Templates(catalogue.sections)
    items = read_items(
        body,
        base_url=base_url,
        is_wanted=lambda line: templates.align(line.tokens) is not None,
    )
    by_name = {section.name: section for section in catalogue.sections}
    entries = list(
        find_captions([item for item in items if not isinstance(item, Script)], templates)
    )
    facts = ScriptFacts()
    kinds = {section.name: section.key for section in catalogue.sections}
    for item in items:
        if isinstance(item, Script):
            read_script(item.text, facts, base_url=base_url, sections=kinds)
    ties = Ties(entries, by_name)
    builder = _Builder(by_name)
    builder.add_html([entry for entry in entries if isinstance(entry, Visual)], ties)
    builder.add_facts(facts)
    prompts = [entry.url for entry in entries if isinstance(entry, Picture)] + facts.prompts
    content = builder.content(dict(_prompts(prompts)))
    if not content.sections and not content.image_prompts:
        raise SourceError(" ".join((_nothing_found(body, base_url), *content.notes)))
    return content


def _nothing_found(body: bytes, base_url: str) -> str:
    return (
        f"Nothing could be read from the page {base_url} ({len(body):,} bytes). Looked for: captions "
        "with <select> boxes or listboxes; image addresses with /samples/{section}/{key}_{rank}.png; "
        "JSON in scripts with captions, options or such addresses. Is it the blog post? Save it from "
        "a browser and pass --page FILE, or leave the page out to use the built-in catalogue."
    )


def _prompts(addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Section and address of the image prompts among some addresses."""
    for address in addresses:
        folder, _, file = urlsplit(address).path.rpartition("/")
        name = unquote(file).rpartition(".")[0]
        if folder.endswith("/image_prompts") and is_plain_name(name):
            yield name, address


class _Builder:
    """Gathers what was found, by section."""

    def __init__(self, known: Mapping[str, Section]) -> None:
        self.known = known
        self.sections: list[PageSection] = []
        self.notes: list[str] = []
        self.cdns: Counter[str] = Counter()
        self.kinds: dict[str, Counter[KeyKind]] = defaultdict(Counter)

    def add_html(self, visuals: list[Visual], ties: Ties) -> None:
        found = self._plausible(ties.tie())
        self._note_left_out(ties)
        by_visual: dict[int, list[Tie]] = defaultdict(list)
        for tie in found:
            self._saw(tie.url)
            by_visual[id(tie.visual)].append(tie)
        for visual in visuals:
            self._add(visual.tokens, visual.alignment, by_visual.pop(id(visual), []), visual.weak)
        for loose in by_visual.values():
            self._add_loose(loose)

    def add_facts(self, facts: ScriptFacts) -> None:
        pictured = [Tie(fold(c), url, None) for c, url in facts.pictures if c is not None]
        for _, url in facts.pictures:
            self._saw(url)
        cdn = self._cdn() or ""
        keyed = [
            Tie(given.caption, _address(cdn, given.section, given.key), None)
            for given in facts.keys
        ]
        self._add_loose(self._plausible([*pictured, *keyed]))
        untied = {url.key for caption, url in facts.pictures if caption is None}
        untied -= {tie.url.key for tie in (*pictured, *keyed)}
        if untied:
            self.notes.append(
                f"{len(untied):,} image keys in scripts stand with no caption: left out."
            )
        for template in facts.templates:
            self._add_template(template)

    def content(self, prompts: Mapping[str, str]) -> PageContent:
        notes = list(dict.fromkeys(self.notes))
        if len(notes) > _MAX_NOTES:
            notes[_MAX_NOTES:] = [f"And {len(notes) - _MAX_NOTES:,} more of the like."]
        return PageContent(
            sections=tuple(self.sections),
            cdn=self._cdn(),
            image_prompts=prompts,
            notes=tuple(notes),
        )

    def _cdn(self) -> str | None:
        """The folder above `samples/` that most images have."""
        usable = [(count, cdn) for cdn, count in self.cdns.items() if cdn.startswith("http")]
        return max(usable)[1] if usable else None

    def _saw(self, url: SampleUrl) -> None:
        self.cdns[url.cdn] += 1
        self.kinds[url.section][url.kind] += 1

    def _plausible(self, ties: list[Tie]) -> list[Tie]:
        """The ties without the headlines: captions of many keys, captions of another section."""
        keys: dict[tuple[str, str], set[str]] = defaultdict(set)
        for tie in ties:
            keys[tie.url.section, comparable(tie.caption)].add(tie.url.key)
        kept = []
        for tie in ties:
            known = self.known.get(tie.url.section)
            is_headline = len(keys[tie.url.section, comparable(tie.caption)]) > (
                _MAX_KEYS_OF_A_CAPTION if tie.url.kind != "name" else 10_000
            )
            computed = tie.url.caption is not None
            fits = computed or known is None or fits_section(Visual((tie.caption,)), known)
            if fits and not is_headline:
                kept.append(tie)
            else:
                self.notes.append(
                    f"Section '{tie.url.section}': the text '{_short(tie.caption)}' stands with keys "
                    "that it cannot belong to: left out."
                )
        return kept

    def _note_left_out(self, ties: Ties) -> None:
        counts = Counter(url.section for url in ties.untied)
        for section, count in sorted(counts.items()):
            self.notes.append(
                f"Section '{section}': {count:,} images stand with no caption: left out."
            )
        if ties.conflicts:
            self.notes.append(
                f"{len(ties.conflicts):,} keys stand with two captions: left out "
                f"({', '.join(ties.conflicts[:3])}…)."
            )

    def _add_template(self, template: DataTemplate) -> None:
        known = self.known.get(template.section or "")
        candidates = tuple(self.known.values()) if known is None else (known,)
        found = next((a for s in candidates if (a := align(s, template.tokens))), None)
        name = template.section or (found.section.name if found else None)
        if name is not None and (found is not None or name in self.kinds or name in self.known):
            self._append(name, template.tokens, found, [])

    def _add(
        self,
        tokens: tuple[Token, ...],
        alignment: Alignment | None,
        ties: list[Tie],
        weak: bool,
    ) -> None:
        names = list(dict.fromkeys(tie.url.section for tie in ties))
        if not names and alignment is not None:
            names = [alignment.section.name]
        if not names and not weak:
            self.notes.append(
                f"The caption '{_short(Visual(tokens).shown)}' shows no image and fits no known "
                "template: its images cannot be addressed."
            )
        for name in names:
            own = [tie for tie in ties if tie.url.section == name]
            known = self.known.get(name)
            self._append(name, tokens, align(known, tokens) if known else None, own)

    def _append(
        self,
        name: str,
        tokens: tuple[Token, ...],
        alignment: Alignment | None,
        ties: list[Tie],
    ) -> None:
        if alignment is not None:
            template, slots = alignment.template, dict(alignment.slots)
        else:
            template, slots = name_slots(tokens)
        section = make_section(
            name=name,
            key=self._kind(name),
            template=template,
            slots=slots,
            axis=None if alignment is None else alignment.gap,
            given=_given(ties),
        )
        self.sections.append(
            PageSection(
                section=section,
                aligned=alignment is not None,
                has_choice=any(isinstance(token, Choice) for token in tokens),
            )
        )

    def _add_loose(self, ties: list[Tie]) -> None:
        """Captions that stand with their keys and under no template."""
        by_section: dict[str, list[Tie]] = defaultdict(list)
        for tie in ties:
            by_section[tie.url.section].append(tie)
        for name, own in by_section.items():
            key = self._kind(name) if name in self.kinds or name in self.known else own[0].url.kind
            section = Section(name=name, key=key, template=NO_TEMPLATE, slots={}, given=_given(own))
            self.sections.append(PageSection(section=section, aligned=True))

    def _kind(self, name: str) -> KeyKind:
        """The kind of a section's keys: what its images show, else what the catalogue says."""
        if self.kinds.get(name):
            return self.kinds[name].most_common(1)[0][0]
        return self.known[name].key


def _given(ties: list[Tie]) -> tuple[GivenCaption, ...]:
    """Captions with their keys, the ranks of each gathered."""
    found: dict[tuple[str, str], GivenCaption] = {}
    for tie in ties:
        ranks = () if tie.url.rank is None else (tie.url.rank,)
        place = comparable(tie.caption), tie.url.template
        before = found.get(place) or GivenCaption(caption=tie.caption, address=tie.url)
        found[place] = replace(before, ranks=tuple(sorted({*before.ranks, *ranks})))
    return tuple(found.values())


def _address(cdn: str, section: str, key: str) -> SampleUrl:
    return SampleUrl(cdn=cdn, section=section, key=key, kind=key_kind(key), rank=0, caption=None)


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
