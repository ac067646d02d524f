"""Prompts, and options that contradict each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError
from pipeline.generate.config import GenerateConfig
from pipeline.generate.prompts import check_options, list_prompts


def prompts_of(**options: Any) -> list[str]:
    return list_prompts(GenerateConfig(**options))


def test_prompts_are_separated_by_bars() -> None:
    assert prompts_of(prompts=("a | b", "c")) == ["a", "b", "c"]


def test_empty_lines_of_a_file_are_no_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a\n\n  \nb|c\n")
    assert prompts_of(prompts=("z",), prompts_file=file) == ["z", "a", "b", "c"]


@pytest.mark.parametrize("prompts", [(), ("",), ("a|",), ("a||b",), ("a", "  ")])
def test_no_prompt_and_an_empty_one_are_refused(prompts: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=r"No prompt given|is empty"):
        prompts_of(prompts=prompts)


def test_a_model_that_writes_may_start_with_nothing() -> None:
    assert prompts_of(gentxt=True) == [""]
    assert prompts_of(gentxt=True, prompts=("a|",)) == ["a", ""]


@pytest.mark.parametrize("name", ["nothing.txt", "bytes.txt"])
def test_a_file_that_can_not_be_read_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigError, match=rf"{name} (can't be read|is missing)"):
        prompts_of(prompts_file=tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"best": 2}, "belong together"),
        ({"of": 2}, "belong together"),
        ({"best": 3, "of": 2, "clip": "c"}, "would keep more images than it draws"),
        ({"best": 1, "of": 2}, "--best needs a CLIP model to rank the images"),
        ({"best": 1, "of": 2, "clip": "c", "num_images": 3}, "Leave out --num-images"),
        ({"prime_rows": 3}, "Add --prime FILE"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_options(GenerateConfig(**options))
