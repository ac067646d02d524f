"""The contents of the mock server: which captions exist, and their spellings, keys and ranks.

Nothing is expanded before it is requested. Keys that can't be computed are invented from the seed, except
for captions whose real keys are known.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import resources

from pipeline.core.errors import ConfigError
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.shapes.subjects import digest_of
from scrapers.sources.dalleblog.captions import Section, load_catalogue, plain_quotes
from scrapers.sources.dalleblog.urls import RANKS, base64_key, caption_of_key

# Hand-made names: section, pattern of the key, its values, number of images for each.
_NAMED: Mapping[str, tuple[str, tuple[str, ...], int]] = {
    "rpm": ("set_{}_masked", ("b", "c", "d", "e"), 12),
    "clip": ("0_top_8_of_{}_rank", ("8", "32", "128", "512", "2048"), 8),
}


@dataclass(frozen=True)
class Entry:
    """An existing caption: `ranks` are those with an image; `first_rank` seeds the drawing."""

    section: Section
    caption: str
    key: str
    ranks: tuple[int, ...]
    first_rank: int = 0


class Holdings:
    """Every caption of the chosen sections, found by section and key or iterated in order."""

    def __init__(self, config: ReplicaConfig) -> None:
        """Raise ConfigError for a section that the catalogue does not have."""
        known = {section.name: section for section in load_catalogue().sections}
        unknown = sorted(set(config.sections) - set(known))
        if unknown:
            raise ConfigError(
                f"The mock server has no section {unknown[0]!r}. It has: {', '.join(sorted(known))}."
            )
        chosen = config.sections or tuple(known)
        self._config = config
        self._by_section = {
            name: _SectionEntries(known[name], config) for name in known if name in chosen
        }

    @property
    def sections(self) -> tuple[Section, ...]:
        """The chosen sections, in the order of the page."""
        return tuple(entries.section for entries in self._by_section.values())

    def entries(self, section: str) -> Iterator[Entry]:
        """Every existing caption of a section, in the order of its slots' options."""
        return iter(self._by_section[section].entries())

    def shown(self, section: str) -> Iterator[Entry]:
        """The captions of a section whose keys a client can know: all, or those that the page shows."""
        return iter(self._by_section[section].shown)

    def find(self, section: str, key: str) -> Entry | None:
        """The caption with this key, None if there is none."""
        entries = self._by_section.get(section)
        return None if entries is None else entries.find(key)

    def entry_for(self, section: str, chosen: Mapping[str, str]) -> Entry | None:
        """The caption with these options, None if it has no images."""
        return self._by_section[section].entry_for(chosen)


class _SectionEntries:
    """The captions of one section."""

    def __init__(self, section: Section, config: ReplicaConfig) -> None:
        self.section = section
        self._config = config
        self._given = {given.caption: given.address.key for given in section.given}
        # The page may have typographic quotes where the template has none.
        self._given_as = {plain_quotes(caption): caption for caption in self._given}

    def entries(self) -> Iterator[Entry]:
        if self.section.name in _NAMED:
            yield from self._named_entries()
            return
        made: set[str] = set()
        for forms in self.section.captions():
            entry = self._entry(forms)
            if entry is not None:
                made.add(entry.caption)
                yield entry
        for caption in self._given:
            if caption not in made:
                yield self._make(caption)

    @cached_property
    def shown(self) -> tuple[Entry, ...]:
        every = tuple(self.entries())
        if self.section.key in ("base64", "name"):
            return every
        first = sorted(every, key=self._showing_order)[: self._config.shown_captions]
        wanted = {entry.caption for entry in first}
        return tuple(entry for entry in every if entry.caption in wanted)

    def _showing_order(self, entry: Entry) -> tuple[int, bytes]:
        """Captions known from the real page first, then those in the same row of images, then random ones."""
        known = entry.caption in self._given
        beside = not known and self._row_of(entry.caption) in self._given_rows
        return 0 if known else 1 if beside else 2, digest_of(
            "shown", self._config.seed, entry.caption
        )

    def _row_of(self, caption: str) -> tuple[str, ...] | None:
        """The options that a caption shares with the row of images it is in, if there is one."""
        chosen = None if self.section.axis is None else self.section.match(caption)
        if chosen is None:
            return None
        return tuple(option for slot, option in chosen.items() if slot != self.section.axis)

    @cached_property
    def _given_rows(self) -> set[tuple[str, ...]]:
        return {row for caption in self._given if (row := self._row_of(caption)) is not None}

    def find(self, key: str) -> Entry | None:
        if self.section.key != "base64":
            return self._by_key.get(key)
        caption = caption_of_key(key)
        chosen = None if caption is None else self.section.match(caption)
        if caption in self._given:
            return self._make(caption)
        entry = None if chosen is None else self._entry(self.section.forms(chosen))
        return entry if entry is not None and entry.caption == caption else None

    def entry_for(self, chosen: Mapping[str, str]) -> Entry | None:
        return self._entry(self.section.forms(chosen))

    @cached_property
    def _by_key(self) -> dict[str, Entry]:
        return {entry.key: entry for entry in self.entries()}

    def _entry(self, forms: tuple[str, ...]) -> Entry | None:
        given = next((g for form in forms if (g := self._given_as.get(plain_quotes(form)))), None)
        if given is not None:
            return self._make(given)
        written = self._share("written", forms[0]) < self._config.as_written
        if self._share("absent", forms[0]) < self._config.missing_captions:
            return None
        return self._make(forms[-1] if written else forms[0])

    def _make(self, caption: str) -> Entry:
        key = self._given.get(caption) or self._invent_key(caption)
        return Entry(self.section, caption, key, self._ranks(caption, RANKS))

    def _named_entries(self) -> Iterator[Entry]:
        pattern, names, count = _NAMED[self.section.name]
        for index, name in enumerate(names):
            ranks = self._ranks(f"{self.section.template} {name}", tuple(range(count)))
            key = pattern.format(name)
            yield Entry(self.section, self.section.template, key, ranks, first_rank=index * count)

    def _invent_key(self, caption: str) -> str:
        if self.section.key == "base64":
            return base64_key(caption)
        digest = digest_of("key", self._config.seed, self.section.name, caption)
        return (
            digest[:16].hex() if self.section.key == "hex128" else str(int.from_bytes(digest[:4]))
        )

    def _ranks(self, caption: str, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """The existing ranks; at least one of the first two exists, since a scraper probes those."""
        limit = self._config.missing_ranks * 2**16
        if not limit:
            return ranks
        digest = digest_of("ranks", self._config.seed, self.section.name, caption)
        points = struct.unpack(">32H", digest)
        there = tuple([rank for rank in ranks if points[rank] >= limit])
        return there if set(there) & {0, 1} else tuple(sorted({0, *there}))

    def _share(self, what: str, caption: str) -> float:
        digest = digest_of(what, self._config.seed, self.section.name, caption)
        return int.from_bytes(digest[:4]) / 2**32


def option_labels() -> dict[str, str]:
    """Each option of the catalogue as shown on the page, by its lower-case form."""
    text = (
        resources.files("scrapers.sources.dalleblog")
        .joinpath("catalogue.json")
        .read_text(encoding="utf-8")
    )
    rows = json.loads(text)["sections"]
    return {
        option.lower(): option
        for row in rows
        for options in row["slots"].values()
        for option in options
    }
