"""A crawl of the mock server with a defect of each kind: the rejected table names exactly those."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ContractError
from pipeline.core.workspace import Workspace
from pipeline.dedupe import inspecting
from pipeline.dedupe.inspection import inspect_part
from tests.dedupe.planting import CAPTIONS, FATES, Crawl, Expected, Shown
from tests.helpers.dedupe import dedupe, kept, rejected


def found_in(workspace: Workspace) -> dict[str, Expected]:
    """The rejected rows by URL."""
    address = {row["key"]: row["url"] for row in kept(workspace).values()}
    return {
        row["url"]: Expected(row["reason"], row["detail"], address.get(row["stands_for"]))
        for row in rejected(workspace).values()
    }


def test_the_rejected_are_exactly_what_was_planted(crawl: Crawl) -> None:
    report = dedupe(crawl.workspace, workers=2)
    found = found_in(crawl.workspace)
    assert set(found) == set(crawl.planted.expected)
    for url, expected in crawl.planted.expected.items():
        assert found[url].reason == expected.reason
        assert found[url].detail.startswith(expected.detail)
        assert found[url].stands_for == expected.stands_for
    assert crawl.addresses == report.counts["rows"] == 32 * CAPTIONS
    assert set(report.counts) >= {expected.reason for expected in crawl.planted.expected.values()}


def test_the_best_of_near_duplicates_represents_the_others(crawl: Crawl) -> None:
    dedupe(crawl.workspace, workers=2)
    leaders: list[dict[str, Any]] = []
    follow: dict[str, str] = {}
    rows = kept(crawl.workspace).values()
    for row in sorted(rows, key=lambda r: (r["rank"], -r["width"] * r["height"], r["key"])):
        near = (one for one in leaders if (one["phash"] ^ row["phash"]).bit_count() <= 4)
        leader = next(near, None)
        if leader is None:
            leaders.append(row)
        else:
            follow[row["url"]] = leader["url"]
    dedupe(crawl.workspace, workers=2, near_duplicates="drop")
    found = found_in(crawl.workspace)
    dropped = {u: e.stands_for for u, e in found.items() if e.reason == "near_duplicate"}
    assert dropped == follow
    original, copy = crawl.planted.look_alikes
    assert follow[copy] == follow.get(original, original)
    assert set(found) == set(crawl.planted.expected) | set(follow)


def test_blank_images_are_marked(crawl: Crawl) -> None:
    dedupe(crawl.workspace, workers=2)
    blanks = {row["url"] for row in kept(crawl.workspace).values() if row["is_blank"]}
    one_pixel = {url for url, shown in crawl.planted.unusual.items() if shown.size == (1, 1)}
    assert blanks == {crawl.planted.blanks[0]} | one_pixel


def test_every_fault_was_met(crawl: Crawl) -> None:
    reasons = {(expected.reason, expected.detail) for expected in crawl.planted.expected.values()}
    assert set(FATES.values()) <= reasons


def test_unusual_files_are_kept_as_what_they_show(crawl: Crawl) -> None:
    dedupe(crawl.workspace, workers=2)
    rows = {row["url"]: row for row in kept(crawl.workspace).values()}
    assert {url: shown_by(rows[url]) for url in crawl.planted.unusual} == crawl.planted.unusual


def shown_by(row: dict[str, Any]) -> Shown:
    return Shown(row["format"], row["mode"], (row["width"], row["height"]), row["has_alpha"])


def test_a_missing_segment_is_named(
    crawl: Crawl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspecting, "inspect_part", inspect_part)
    copy = Workspace(tmp_path / "copy")
    shutil.copytree(crawl.workspace.raw, copy.raw)
    (segment,) = copy.segments.iterdir()
    segment.unlink()
    with pytest.raises(ContractError, match=segment.name):
        dedupe(copy)
    assert not (copy.dedupe / "manifest.json").exists()
