"""Tables of the report from the manifests of scrape, dedupe, shards and training."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeVar

from pipeline.core.contracts import Manifest
from pipeline.core.parsing import parse_dataclass
from pipeline.report.page import Section, html_table

_MOST_SENTENCES = 10
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
        body=body,
    )
    sentences = details.differences
    if sentences:
        number = len(sentences) if details.num_differences is None else details.num_differences
        items = "".join(f"<li>{escape(str(text))}</li>" for text in sentences[:_MOST_SENTENCES])
        yield Section(
            title="Page and catalogue",
            note=f"{number:,} differences, of which the first are:",
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
    groups = ("splits", "formats", "sizes", "traits")
    rows = [(g, name, n) for g in groups for name, n in getattr(details, g).items() if n]
    alike = {k: v for k, v in details.near_duplicates.items() if isinstance(v, int)}
    rows += [("near duplicates", _words(name), number) for name, number in alike.items()]
    rows += [("captions", _words(name), n) for name, n in details.captions.items()]
    yield Section(
        title="Kept images",
        note="Kept images by property.",
        body=html_table(("property", "value", "images"), rows),
    )


def count_table(first: str, table: Counts) -> str:
    """One row per name and one column per count that is not always 0, with totals."""
    names = sorted({name for counts in table.values() for name, n in counts.items() if n})
    rows = [(row, *(counts.get(n, 0) for n in names)) for row, counts in table.items()]
    if len(rows) > 1:
        rows.append(("all", *(sum(counts.get(n, 0) for counts in table.values()) for n in names)))
    return html_table((first, *names), rows)


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
