"""The blog post → its sections: templates, options, image prompts, and keys with their captions.

Three steps: `page_items` reads lines of text and images, `page_ties` assigns captions to images, and this
module groups the result by section. The catalogue is kept apart and merged in `merge`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import unquote, urlsplit

from pipeline.core.errors import SourceError
from scrapers.fetch.charset import decode_page
from scrapers.fetch.page_urls import Credentials
from scrapers.sources.dalleblog.captions import (
    NO_TEMPLATE,
    Catalogue,
    GivenCaption,
    Section,
    comparable,
    fold,
    make_section,
    words_of,
)
from scrapers.sources.dalleblog.page_items import MAX_CAPTION_CHARS, Items, Line, read_items
from scrapers.sources.dalleblog.page_ties import Tie, Tying
from scrapers.sources.dalleblog.templates import (
    Choice,
    Templates,
    Tokens,
    name_slots,
    show,
    templates_of,
)
from scrapers.sources.dalleblog.urls import KeyKind, is_plain_name

# How many text nodes on each side of a choice may belong to its caption.
_REACH = 16


@dataclass(frozen=True, kw_only=True)
class PageSection:
    """A caption template as the page shows it; `aligned` if its slots are those of the catalogue.

    `has_choice`: its options can be chosen, so its articles are the template's and not those of one caption.
    """

    section: Section
    aligned: bool
    has_choice: bool = False


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something that could not be used, as a sentence, and the section that it concerns, if any."""

    section: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """The content of a page: its sections in order, the folder of its images, and what was left out.

    `meta` are names (in lower case) and contents of its `<meta>` elements; `credentials` are user and
    password by origin, which are in none of its URLs.
    """

    sections: tuple[PageSection, ...]
    cdn: str | None
    image_prompts: Mapping[str, str] = field(default_factory=dict)
    left_out: tuple[LeftOut, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    credentials: Credentials = field(default_factory=dict, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """The sentences about what was left out."""
        return tuple(dict.fromkeys(one.text for one in self.left_out))


def read_page(
    body: bytes, *, base_url: str, catalogue: Catalogue, content_type: str | None = None
) -> PageContent:
    """Read the blog post from its HTML.

    `base_url` is its final URL, `content_type` the header that came with it. Raises SourceError if neither
    captions nor images are found.
    """
    text = decode_page(body, content_type)
    kinds = {section.name: section.key for section in catalogue.sections}
    templates = templates_of(catalogue)
    items = read_items(text, base_url=base_url, sections=kinds)
    _recognise(items, templates)
    content = _Building(items, Tying(items, templates), templates).content()
    if not content.sections and not content.image_prompts:
        raise SourceError(" ".join((_nothing_found(text, base_url), *content.notes)))
    return content


def _recognise(items: Items, templates: Templates) -> None:
    """Match every line with the catalogue's templates; join captions that span several blocks."""
    lines, keys = items.lines, (image.sample.caption for image in items.images)
    spelt = {comparable(fold(caption)) for caption in keys if caption is not None}
    for line in lines:
        if len(line.shown) <= MAX_CAPTION_CHARS:
            line.alignment = templates.align(line.tokens)
    for line in [line for line in lines if line.has_choice and line.alignment is None]:
        is_whole = line not in lines or comparable(line.shown) in spelt
        for tokens, first, last in () if is_whole else _runs(lines, lines.index(line)):
            alignment = templates.align(tokens)
            if alignment is not None or (spelt and comparable(show(tokens)) in spelt):
                lines[first : last + 1] = [replace(line, tokens=tokens, alignment=alignment)]
                break


def _runs(lines: list[Line], index: int) -> Iterator[tuple[Tokens, int, int]]:
    """The runs of text nodes around a line with choices, and the first and last line of each."""
    around = range(max(index - _REACH, 0), min(index + _REACH + 1, len(lines)))
    near = [k for k in around if lines[k].figure is lines[index].figure]
    # The space marks the block boundary; folding joins several.
    tokens = [(token, k) for k in near for token in (" ", *lines[k].tokens)]
    own = [n for n, (token, k) in enumerate(tokens) if k == index and isinstance(token, Choice)]
    for low in range(own[0], max(own[0] - _REACH, 0) - 1, -1):
        for high in range(own[-1], min(own[-1] + _REACH, len(tokens) - 1) + 1):
            run = tuple(token for token, _ in tokens[low : high + 1])
            yield run, min(index, tokens[low][1]), max(index, tokens[high][1])


def _nothing_found(text: str, base_url: str) -> str:
    return (
        f"Nothing could be read from the page {base_url} ({len(text):,} characters). Looked for: "
        "captions with <select> boxes or listboxes; image URLs with "
        "/samples/{section}/{key}_{rank}.png; JSON in scripts with captions, options or such "
        "URLs. Is it the blog post? Save it from a browser and pass --page FILE, or leave the "
        "page out to use the built-in catalogue."
    )


class _Building:
    """Groups the content of a page by section, with what was left out."""

    def __init__(self, items: Items, tying: Tying, templates: Templates) -> None:
        self.items = items
        self.templates = templates
        self.sections: list[PageSection] = []
        self.left_out = [
            LeftOut(
                section=name,
                text=f"Section '{name}': the text '{_short(text)}' is shown with keys that it can't "
                "belong to: left out.",
            )
            for name, text in tying.headlines
        ]
        self.kinds: dict[str, Counter[KeyKind]] = defaultdict(Counter)
        for image in items.images:
            self.kinds[image.sample.section][image.sample.kind] += 1
        ties = self._without_doubts([self._placed(tie) for tie in tying.tied.values()])
        self._add_sections(ties)

    def content(self) -> PageContent:
        """The content of the page."""
        cdns = Counter(i.sample.cdn for i in self.items.images if i.sample.cdn.startswith("http"))
        return PageContent(
            sections=tuple(self.sections),
            cdn=max(((n, cdn) for cdn, n in cdns.items()), default=(0, None))[1],
            image_prompts=dict(_prompts(self.items.prompts)),
            left_out=tuple(self.left_out),
            meta=tuple(self.items.meta),
            credentials=self.items.credentials,
        )

    def _placed(self, tie: Tie) -> Tie:
        """The tie of an image that was renamed when the page was saved, in the section of its caption."""
        if tie.url.section:
            return tie
        found = self.templates.align((tie.caption,))
        if found is None and tie.line is not None:
            found = tie.line.alignment
        is_there = found is not None and found.section.key == tie.url.kind
        name = found.section.name if found is not None and is_there else ""
        return replace(tie, url=replace(tie.url, section=name, cdn="", written=None))

    def _without_doubts(self, ties: list[Tie]) -> list[Tie]:
        """The ties without the keys that would have two captions by the same rule."""
        best: dict[object, int] = {}
        said: dict[object, set[str]] = defaultdict(set)
        for tie in ties:
            best[tie.url.identity] = min(tie.rule, best.get(tie.url.identity, tie.rule))
        ties = [t for t in ties if t.url.section and t.rule == best[t.url.identity]]
        for tie in ties:
            said[tie.url.identity].add(comparable(tie.caption))
        doubtful = [tie.url for tie in ties if len(said[tie.url.identity]) > 1]
        self._note_left_out(ties)
        if doubtful:
            names = sorted({f"{url.section}/{url.key}" for url in doubtful})
            text = f"{len(names):,} keys are shown with two captions: left out ({', '.join(names[:3])}…)."
            section = doubtful[0].section if len({url.section for url in doubtful}) == 1 else None
            self.left_out.append(LeftOut(section=section, text=text))
        return [tie for tie in ties if len(said[tie.url.identity]) == 1]

    def _note_left_out(self, ties: list[Tie]) -> None:
        tied = {tie.url.identity for tie in ties} | {("", tie.url.key, None) for tie in ties}
        samples = (image.sample for image in self.items.images)
        untied = Counter(sample.section for sample in samples if sample.identity not in tied)
        counts = {
            "were renamed when the page was saved, so their URLs are unknown: left out. Save it "
            "as HTML only or as .mhtml instead.": untied.pop("", 0),
            "have a URL that can't be read or requested: left out.": self.items.unreadable,
            "are embedded in the page (data:) and have no URL: left out.": self.items.embedded,
        }
        for section, count in sorted(untied.items()):
            text = f"Section '{section}': {count:,} images have no caption: left out."
            self.left_out.append(LeftOut(section=section, text=text))
        for what, count in counts.items():
            if count:
                self.left_out.append(LeftOut(section=None, text=f"{count:,} images {what}"))

    def _add_sections(self, ties: list[Tie]) -> None:
        by_line: dict[Line | str, list[Tie]] = defaultdict(list)
        for tie in ties:
            line = tie.line if tie.line is not None and tie.line.is_template else None
            by_line[line or tie.url.section].append(tie)
        for line in filter(lambda line: line.is_template, self.items.lines):
            self._add(line, by_line.pop(line, []))
        for loose in by_line.values():
            name, given = loose[0].url.section, _given(loose)
            escaped = any(one.address.escaped for one in given)
            section = Section(
                name=name,
                key=self._kind(name),
                template=NO_TEMPLATE,
                slots={},
                given=given,
                escaped=escaped,
            )
            self.sections.append(PageSection(section=section, aligned=True))

    def _add(self, line: Line, ties: list[Tie]) -> None:
        names = list(dict.fromkeys(tie.url.section for tie in ties))
        if not names and line.section is not None:
            names = [line.section] if line.section in {*self.kinds, *self.templates.by_name} else []
        elif not names and line.alignment is not None:
            names = [line.alignment.section.name]
        if not names and line.is_prose and len(words_of(name_slots(line.tokens)[0])) > 2:
            text = (
                f"The caption '{_short(line.shown)}' shows no image and fits no known template: its "
                "images have no known URL."
            )
            self.left_out.append(LeftOut(section=None, text=text))
        for name in names:
            self._append(name, line, [tie for tie in ties if tie.url.section == name])

    def _append(self, name: str, line: Line, ties: list[Tie]) -> None:
        alignment = line.alignment
        if alignment is None or alignment.section.name != name:
            alignment = self.templates.align(line.tokens, name=name)
        template, slots = name_slots(line.tokens)
        if alignment is not None:
            template, slots = alignment.template, dict(alignment.slots)
        section = make_section(
            name=name,
            key=self._kind(name),
            template=template,
            slots=slots,
            axis=None if alignment is None else alignment.gap,
            given=_given(ties),
            escaped=any(tie.url.escaped for tie in ties),
        )
        self.sections.append(
            PageSection(section=section, aligned=alignment is not None, has_choice=line.has_choice)
        )

    def _kind(self, name: str) -> KeyKind:
        """The kind of a section's keys: that of its images, else that in the catalogue."""
        if self.kinds[name]:
            return self.kinds[name].most_common(1)[0][0]
        return self.templates.by_name[name].key


def _given(ties: list[Tie]) -> tuple[GivenCaption, ...]:
    """Captions with their keys, the ranks of each collected.

    A query that differs between the ranks of a key is signed for one image: no other ranks exist.
    """
    found: dict[tuple[str, str], GivenCaption] = {}
    queries: dict[object, set[str]] = defaultdict(set)
    for tie in ties:
        ranks = () if tie.url.rank is None else (tie.url.rank,)
        place = comparable(tie.caption), tie.url.template
        before = found.get(place) or GivenCaption(caption=tie.caption, address=tie.url)
        found[place] = replace(before, ranks=tuple(sorted({*before.ranks, *ranks})))
        queries[tie.url.identity].add(tie.url.query)
    return tuple(
        replace(given, linked_only=len(queries[given.address.identity]) > 1)
        for given in found.values()
    )


def _prompts(addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Section and URL of the image prompts among some URLs."""
    for address in addresses:
        folder, _, file = urlsplit(address).path.rpartition("/")
        name = unquote(file).rpartition(".")[0]
        if folder.endswith("/image_prompts") and is_plain_name(name):
            yield name, address


def _short(text: str) -> str:
    return text if len(text) <= 80 else text[:79] + "…"
