"""What was probably meant by a path where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.suggestions import hint_at_path


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    (tmp_path / "runs/dalle/checkpoints").mkdir(parents=True)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("dale", "dalle"),
        ("dalle/checkpoint", "dalle/checkpoints"),
        ("dale/checkpoints/step-000500", "dalle/checkpoints/step-000500"),
    ],
)
def test_the_first_part_of_a_path_that_is_missing_is_corrected(
    runs: Path, given: str, meant: str
) -> None:
    assert hint_at_path(runs / given) == f" Did you mean {str(runs / meant)!r}?"


def test_a_relative_path_stays_relative(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    assert hint_at_path(Path("dale")) == " Did you mean 'dalle'?"


@pytest.mark.parametrize("given", ["dalle", "dalle/checkpoints", "another", "x" * 5000, "dalle/\0"])
def test_no_path_is_suggested_that_is_not_close(runs: Path, given: str) -> None:
    assert hint_at_path(runs / given) == ""
