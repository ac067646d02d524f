"""The command lines of tasks; these tests need no Airflow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dalle_pipeline_airflow.parts import (
    finished_runs,
    group_sections,
    label_of,
    page_arguments,
    scrape_arguments,
    train_arguments,
    was_trained_on,
)

PARAMS: dict[str, Any] = {
    "source": "dalleblog", "sections": ["a", "b"], "mode": "continue", "limit": None, "rate": None,
}  # fmt: skip
START = ["scrape", "dalleblog", "--no-remember"]


def test_the_page_is_fetched_for_the_plan_alone() -> None:
    words = ["scrape", "dalleblog", "--plan", "--no-remember", "--sections=a", "--sections=b"]
    assert page_arguments(PARAMS) == words


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({}, []),
        ({"mode": "refresh"}, ["--refresh"]),
        ({"mode": "update"}, ["--update"]),
        ({"limit": 7, "rate": 0.5}, ["--limit=7", "--rate=0.5"]),
    ],
)
def test_the_parameters_reach_a_scrape(params: dict[str, Any], words: list[str]) -> None:
    assert scrape_arguments(PARAMS | params, ["c"]) == [*START, *words, "--sections=c"]


def test_sections_are_grouped_into_parts_of_like_size() -> None:
    captions = {"a": 5, "b": 9, "c": 4, "d": 0, "e": 1}
    sections = {name: {"captions": number} for name, number in captions.items()}
    assert group_sections(sections, 2) == [["b", "e"], ["a", "c"]]
    assert group_sections(sections, 9) == [["b"], ["a"], ["c"], ["e"]]


def test_a_label_is_cut_after_eighty_letters() -> None:
    assert label_of(["x" * 38, "y" * 40]) == "x" * 38 + ", " + "y" * 40
    assert label_of(["x" * 39, "y" * 40]) == "x" * 39 + ", " + "y" * 38 + "…"


def test_a_run_starts_from_the_last_finished_one_before_it(tmp_path: Path) -> None:
    assert train_arguments(tmp_path, "w", "w-1") == ["train", "--name", "w-1"]
    for name in ("w-1", "w-2", "w-3", "v-1"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "manifest.json").write_text("{}")
    (tmp_path / "runs/w-2/manifest.json").unlink()  # it has not finished
    runs = tmp_path / "runs"
    assert finished_runs(tmp_path, "w", before="w-4") == [runs / "w-1", runs / "w-3"]
    resume = ["--resume-from", str(runs / "w-1")]
    assert train_arguments(tmp_path, "w", "w-3") == ["train", "--name", "w-3", *resume]


@pytest.mark.parametrize(
    ("manifest", "known"),
    [
        ({"inputs": {"shards": "f"}}, True),
        ({"inputs": {"shards": "g"}}, False),
        ({}, False),
        ([], False),
    ],
)
def test_a_run_was_trained_on_the_shards_that_its_manifest_names(
    tmp_path: Path, manifest: object, known: bool
) -> None:
    assert not was_trained_on(tmp_path, "f")
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert was_trained_on(tmp_path, "f") == known
