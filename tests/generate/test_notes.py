"""What a killed run noted counts only as far as its images are there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.notes import (
    NOTES,
    Record,
    add_note,
    read_identity,
    read_notes,
    write_notes,
)
from pipeline.generate.run import run
from tests.generate.images import hashes_by_prompt


def note_of(folder: Path, prompt: int, images: int = 2) -> list[Record]:
    """The note of a prompt, with its images."""
    names = [f"{prompt:04d}-{rank:02d}.png" for rank in range(images)]
    for name in names:
        write_bytes(folder / name, b"image")
    return [{"number": prompt, "file": name} for name in names]


def test_prompts_come_back_as_they_were_noted(tmp_path: Path) -> None:
    first, second = note_of(tmp_path, 0), note_of(tmp_path, 1)
    write_notes(tmp_path, "mine", [first])
    add_note(tmp_path, second)
    assert (read_identity(tmp_path), read_notes(tmp_path)) == ("mine", [first, second])


@pytest.mark.parametrize("lost", [0, 1])
def test_a_prompt_that_lost_an_image_counts_as_not_drawn(lost: int, tmp_path: Path) -> None:
    notes = [note_of(tmp_path, number) for number in range(3)]
    write_notes(tmp_path, "mine", notes)
    (tmp_path / notes[1][lost]["file"]).unlink()
    assert read_notes(tmp_path) == [notes[0], notes[2]]


def test_what_comes_after_a_line_that_was_cut_counts_as_not_written(tmp_path: Path) -> None:
    notes = [note_of(tmp_path, number) for number in range(3)]
    write_notes(tmp_path, "mine", notes)
    head, first, second, third = (tmp_path / NOTES).read_bytes().splitlines(keepends=True)
    (tmp_path / NOTES).write_bytes(head + first + second[:-5] + b"\n" + third)
    assert read_notes(tmp_path) == [notes[0]]


@pytest.mark.parametrize(
    "record",
    [{}, {"number": "0", "file": "0000-00.png"}, {"number": 0, "file": "../../x"}, {"number": 0}],
)
def test_a_note_that_makes_no_sense_counts_as_not_written(
    record: dict[str, Any], tmp_path: Path
) -> None:
    note_of(tmp_path, 0)
    write_notes(tmp_path, "mine", [[record]])
    assert read_notes(tmp_path) == []


def test_an_image_that_is_missing_on_resume_is_drawn_again(
    workspace: Workspace, make_config: Callable[..., GenerateConfig]
) -> None:
    def stop(done: int, total: int | None, notes: object = None) -> None:
        if done == 4:
            raise KeyboardInterrupt

    run(make_config(name="whole"))
    with pytest.raises(KeyboardInterrupt):
        run(make_config(batch_size=1), stop)
    folder = workspace.generated("default")
    (folder / "0000-01.png").unlink()
    assert run(make_config(batch_size=1)).counts["written"] == 6
    assert hashes_by_prompt(workspace) == hashes_by_prompt(workspace, "whole")
    assert (folder / "0000-01.png").is_file()
