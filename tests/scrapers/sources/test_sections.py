"""What is said when the page shows other sections than last time, and of losses that are new."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline.core.workspace import Workspace
from scrapers.source import SectionSummary
from scrapers.sources.differences import MAX_SENTENCES, describe_differences, warn_of_losses
from scrapers.sources.sections import describe_page, keep_sections

ALL = {"a", "b", "c"}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = Workspace(tmp_path / "data").open(source="x")
    workspace.raw.mkdir()
    return workspace


def page(*, only_catalogue: str = "", **captions: int) -> list[SectionSummary]:
    return [
        SectionSummary(name=name, captions=number, shown=name != only_catalogue)
        for name, number in captions.items()
    ]


def test_the_first_page_has_not_changed(workspace: Workspace) -> None:
    assert describe_page(workspace, page(a=1, b=2), asked=ALL) == {
        "changed": False,
        "sections_added": [],
        "sections_removed": [],
        "captions": {},
    }


def test_sections_that_came_went_and_changed_are_named(workspace: Workspace) -> None:
    keep_sections(workspace, page(a=1, b=2), asked=ALL)
    assert describe_page(workspace, page(a=1, b=2), asked=ALL)["changed"] is False
    assert describe_page(workspace, page(a=5, c=3), asked=ALL) == {
        "changed": True,
        "sections_added": ["c"],
        "sections_removed": [],
        "captions": {"a": [1, 5]},
    }


def test_a_section_that_only_the_catalogue_knows_is_not_shown(workspace: Workspace) -> None:
    keep_sections(workspace, page(a=1, b=2), asked=ALL)
    found = describe_page(workspace, page(a=1, b=2, only_catalogue="b"), asked=ALL)
    assert (found["sections_added"], found["sections_removed"]) == ([], ["b"])
    keep_sections(workspace, page(a=1, b=2, only_catalogue="b"), asked=ALL)
    found = describe_page(workspace, page(a=1, b=2), asked=ALL)
    assert (found["sections_added"], found["sections_removed"]) == (["b"], [])


def test_only_what_was_asked_for_is_compared_and_kept(workspace: Workspace) -> None:
    keep_sections(workspace, page(a=1, b=2), asked={"a"})
    changed = page(a=1, b=7, only_catalogue="b")
    assert describe_page(workspace, changed, asked={"a"})["changed"] is False
    keep_sections(workspace, changed, asked={"a"})
    found = describe_page(workspace, changed, asked={"b"})
    assert (found["captions"], found["sections_removed"]) == ({"b": [2, 7]}, ["b"])


@pytest.mark.parametrize(
    ("number", "kept"),
    [(0, 0), (MAX_SENTENCES - 1, 199), (MAX_SENTENCES, 200), (MAX_SENTENCES + 1, 200)],
)
def test_a_report_has_the_first_sentences_and_their_number(number: int, kept: int) -> None:
    sentences = [f"sentence {n}" for n in range(number)]
    found = describe_differences(sentences)
    assert found == {"num_differences": number, "differences": sentences[:kept]}


def test_a_workspace_is_warned_of_each_loss_once(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    def warned(*losses: str) -> list[str]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            warn_of_losses(losses, workspace)
        return [r.levelname for r in caplog.records]

    assert warned("one", "two") == ["WARNING"]
    assert warned("two", "one") == ["INFO"]
    assert warned("one") == ["INFO"]
    assert warned("one", "three") == ["WARNING"]
    assert warned("one", "two", "three") == ["INFO"]
    assert warned() == []
