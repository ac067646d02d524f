"""Tables of the report from the manifests of scrape, dedupe, shards and training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline.core.contracts import Manifest
from pipeline.core.parsing import parse_dataclass
from pipeline.report.page import Section, html_table, shown

_MOST_SENTENCES = 10
_MOST_SIZES = 10
T = TypeVar("T")
Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class ScrapeDetails:
    """The details that the report reads from a manifest of the raw store."""

    sections: Counts = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    num_differences: int | None = None


@dataclass(frozen=True, kw_only=True)
class DedupeDetails:
    """The details that the report reads from a manifest of dedupe: image counts by name, in groups."""

    sections: Counts = field(default_factory=dict)
    splits: Mapping[str, int] = field(default_factory=dict)
    formats: Mapping[str, int] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    traits: Mapping[str, int] = field(default_factory=dict)
    near_duplicates: Mapping[str, Any] = field(default_factory=dict)
    captions: Mapping[str, int] = field(default_factory=dict)


def _read_details(cls: type[T], manifest: Manifest, source: str) -> T:
    return parse_dataclass(cls, manifest.details, source=source, field="details")


def scrape_sections(manifest: Manifest, source: str) -> Iterator[Section]:
    """What was requested and fetched by section, what failed and why, and how page and catalogue differ.

    `source` names the manifest in errors.
    """
    details = _read_details(ScrapeDetails, manifest, source)
    body = count_table("section", details.sections)
    if details.reasons:
        reasons = sorted(details.reasons.items())
        body += html_table(
            ("why an image is missing, or what is unusual about it", "images"), reasons
        )
    yield Section(
        title="Scraped",
        note="URLs by state; captions with all (complete), some (partial) or none (absent) of their images.",
        body=completeness(details.sections) + body,
    )
    sentences = details.differences
    if sentences:
        number = len(sentences) if details.num_differences is None else details.num_differences
        items = "".join(f"<li>{shown(text)}</li>" for text in sentences[:_MOST_SENTENCES])
        more = f"; these are the first {_MOST_SENTENCES}" if number > _MOST_SENTENCES else ""
        yield Section(
            title="Notes on the source",
            note=f"{number:,} {'notes' if number > 1 else 'note'} on what the source says{more}.",
            body=f"<ul>{items}</ul>",
        )


def dedupe_sections(manifest: Manifest, source: str) -> Iterator[Section]:
    """Kept and rejected images by section, properties of the kept ones, and near duplicates."""
    details = _read_details(DedupeDetails, manifest, source)
    yield Section(
        title="Kept and rejected",
        note="Rows of the dedupe tables by section: kept, or rejected with the reason.",
        body=count_table("section", details.sections),
    )
    groups = {g: getattr(details, g) for g in ("splits", "formats", "traits")}
    groups["sizes, the most frequent"] = _most_frequent(details.sizes)
    rows = [(g, name, n) for g, counts in groups.items() for name, n in counts.items() if n]
    alike = {k: v for k, v in details.near_duplicates.items() if isinstance(v, int)}
    rows += [("near duplicates", _words(name), number) for name, number in alike.items()]
    rows += [("captions", _words(name), n) for name, n in details.captions.items()]
    yield Section(
        title="Properties of kept images",
        note="Counts from the manifest of dedupe.",
        body=html_table(("property", "value", "images"), rows),
    )


def _most_frequent(sizes: Mapping[str, int]) -> dict[str, int]:
    """The ten most frequent sizes, the most frequent first."""
    ranked = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return dict(ranked[:_MOST_SIZES])


def completeness(sections: Counts) -> str:
    """Bars of captions with all, some or none of their images, by section; "" if that isn't known."""
    names = ("complete", "partial", "absent")
    counts = {name: [found.get(part, 0) for part in names] for name, found in sections.items()}
    counts = {name: numbers for name, numbers in counts.items() if any(numbers)}
    most = max((sum(numbers) for numbers in counts.values()), default=0)
    if not most:
        return ""
    rows = "".join(
        f"<span>{shown(section)}: <b>{numbers[0]:,}</b> of {sum(numbers):,}</span>"
        f'<div class="stack">{"".join(map(_share, names, numbers, [most] * len(names)))}</div>'
        for section, numbers in counts.items()
    )
    return f'<h4>Captions with all their images, by section</h4><div class="bars">{rows}</div>'


def _share(name: str, number: int, most: int) -> str:
    width = f"width:{100 * number / most:.1f}%"
    return f'<i class="{name}" style="{width}" title="{name} {number:,}"></i>' if number else ""


def count_table(first: str, table: Counts) -> str:
    """One row per name and one column per count that is not always 0, with totals."""
    names = sorted({name for counts in table.values() for name, n in counts.items() if n})
    rows = [(row, *(counts.get(n, 0) for n in names)) for row, counts in table.items()]
    if len(rows) > 1:
        rows.append(("all", *(sum(counts.get(n, 0) for counts in table.values()) for n in names)))
    return html_table((first, *map(_words, names)), rows)


def state_rows(folders: Iterable[Any]) -> Iterator[tuple[str, str, str, str]]:
    """Name, state, counts and size of each folder of the workspace."""
    for folder in folders:
        if folder.manifest is None:
            yield folder.name, "unfinished", "", ""
            continue
        counts = ", ".join(f"{_words(k)} {n:,}" for k, n in folder.manifest.counts.items() if n)
        size = sum(entry.bytes for entry in folder.manifest.files)
        yield folder.name, _state(folder), counts, _size(size)


def _state(folder: Any) -> str:
    if folder.stale:
        return f"stale: {', '.join(folder.stale)} changed"
    return f"fresh; {', '.join(folder.outgrown)} has grown since" if folder.outgrown else "fresh"


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"


def _words(name: str) -> str:
    return name.replace("_", " ")
