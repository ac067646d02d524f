"""The palette: names, distances, and the colours in captions."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from pipeline.demo.replica.palette import (
    PALETTE,
    colours_named,
    squared_distance,
)


def test_no_two_colours_are_closer_than_fifty() -> None:
    pairs = itertools.combinations(PALETTE.values(), 2)
    assert min(squared_distance(first, second) for first, second in pairs) > 50**2


@pytest.mark.parametrize(
    ("caption", "names"),
    [
        ("a small red block sitting on a large green block", ("red", "green")),
        ("an emoji wearing a blue hat, red gloves, blue shirt", ("blue", "red")),
        ("a Grey bed", ("gray",)),
        ("a bored capybara", ()),  # no colour within a word
        ("a golden retriever in Greenland", ()),
    ],
)
def test_colours_are_read_as_words_in_order(caption: str, names: tuple[str, ...]) -> None:
    assert colours_named(caption) == names


def test_the_palette_needs_no_drawing_library() -> None:
    code = "import sys, pipeline.demo.replica.palette; sys.exit('PIL' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
