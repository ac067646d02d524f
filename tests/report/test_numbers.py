"""The report's tables: they match the manifests of scrape and dedupe."""

from __future__ import annotations

import re

from pipeline.core.storage import make_manifest
from pipeline.report.numbers import completeness, count_table, dedupe_sections, scrape_sections


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_counts_have_totals_and_zero_columns_are_left_out() -> None:
    table = {"emojis": {"done": 1200, "failed": 0}, "shapes": {"done": 3, "missing": 2}}
    assert cells(count_table("section", table)) == [
        ["section", "done", "missing"],
        ["emojis", "1,200", "0"],
        ["shapes", "3", "2"],
        ["all", "1,203", "2"],
    ]


def test_scrape_shows_states_reasons_and_differences() -> None:
    details = {
        "sections": {"emojis": {"done": 5, "complete": 1}},
        "reasons": {"http_404": 7},
        "num_differences": 40,
        "differences": [f"difference {n} <b>" for n in range(40)],
    }
    manifest = make_manifest("raw", config={}, inputs={}, counts={}, files=(), details=details)
    scraped, page = scrape_sections(manifest, "manifest.json")
    assert ["emojis", "1", "5"] in cells(scraped.body)
    assert ["http_404", "7"] in cells(scraped.body)
    assert page.title == "Notes on the source"
    assert page.note.startswith("40 notes")
    assert page.body.count("<li>") == 10
    assert "<b>" not in page.body


def test_dedupe_shows_reasons_properties_and_near_duplicates() -> None:
    details = {
        "sections": {"emojis": {"kept": 5, "duplicate_bytes": 2}},
        "splits": {"train": 4, "val": 1},
        "sizes": {"256x256": 5},
        "near_duplicates": {"clusters_within_captions": 3, "largest": []},
        "captions": {"with_images": 2},
    }
    manifest = make_manifest("dedupe", config={}, inputs={}, counts={}, files=(), details=details)
    reasons, kinds = dedupe_sections(manifest, "manifest.json")
    assert cells(reasons.body)[1] == ["emojis", "2", "5"]
    for row in (
        ["splits", "train", "4"],
        ["sizes, the most frequent", "256x256", "5"],
        ["near duplicates", "clusters within captions", "3"],
        ["captions", "with images", "2"],
    ):
        assert row in cells(kinds.body)


def test_of_sizes_the_ten_most_frequent_are_listed() -> None:
    sizes = {f"{n}x{n}": n for n in range(1, 31)}
    details = {"sizes": sizes}
    manifest = make_manifest("dedupe", config={}, inputs={}, counts={}, files=(), details=details)
    _, kinds = dedupe_sections(manifest, "manifest.json")
    shown = [row[1] for row in cells(kinds.body) if row[0].startswith("sizes")]
    assert shown == [f"{n}x{n}" for n in range(30, 20, -1)]


def test_completeness_is_shown_by_section() -> None:
    sections = {"emojis": {"complete": 8, "partial": 4}, "shapes": {"done": 3}}
    html = completeness(sections)
    assert re.findall(r"<span>(.*?)</span>", html) == ["emojis: <b>8</b> of 12"]
    assert re.findall(r'class="(complete|partial|absent)" style="width:([\d.]+)%', html) == [
        ("complete", "66.7"),
        ("partial", "33.3"),
    ]
    assert completeness({"shapes": {"done": 3}}) == ""
