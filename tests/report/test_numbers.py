"""The report's tables: they match the manifests of scrape and dedupe."""

from __future__ import annotations

import re

from pipeline.core.storage import make_manifest
from pipeline.report.numbers import count_table, dedupe_sections, scrape_sections


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
    assert page.note.startswith("40 differences")
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
        ["sizes", "256x256", "5"],
        ["near duplicates", "clusters within captions", "3"],
        ["captions", "with images", "2"],
    ):
        assert row in cells(kinds.body)
