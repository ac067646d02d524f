"""After a stage the command of the next one is printed, as it can be typed."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from pipeline.app import next_steps
from pipeline.app.next_steps import next_command, with_next
from pipeline.core.contracts import StageReport
from tests.helpers.cli import run_command


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(next_steps, "called_as", lambda: "pipeline")


def run(*words: str) -> str:
    result = run_command([*words])
    assert result.exit_code == 0, result.output
    return result.output


def make_folder(tmp_path: Path, number: int = 6) -> Path:
    folder = tmp_path / "my images"
    folder.mkdir()
    for each in range(number):
        Image.new("RGB", (8, 8), (40 * each, 9, 9)).save(folder / f"{each}.png")
        (folder / f"{each}.txt").write_text(f"shade {each}\n")
    return folder


def test_what_is_printed_can_be_typed_until_nothing_is_left(tmp_path: Path) -> None:
    workspace = tmp_path / "my data"
    last = run("scrape", "folder", str(make_folder(tmp_path)), "--workspace", str(workspace))
    named = []
    for _ in range(2):
        line = last.splitlines()[-1]
        assert line.startswith("Next: pipeline ")
        words = shlex.split(line.removeprefix("Next: pipeline "))
        assert words[-2:] == ["--workspace", str(workspace)]
        named.append(words[0])
        last = run(*words)
    assert named == ["dedupe", "train-tokenizer"]
    assert last.splitlines()[-1].startswith("Next: pipeline train-codec")


def test_what_is_there_already_is_left_out(tmp_path: Path) -> None:
    workspace = tmp_path / "data"
    folder = make_folder(tmp_path)
    run("scrape", "folder", str(folder), "--workspace", str(workspace))
    run("dedupe", "--workspace", str(workspace))
    assert str(next_command(workspace, "scrape")).startswith("pipeline train-tokenizer")
    (folder / "0.png").unlink()
    run("scrape", "folder", str(folder), "--workspace", str(workspace))
    assert str(next_command(workspace, "scrape")).startswith("pipeline dedupe")


def test_a_prompt_is_needed_to_draw_and_nothing_comes_after_the_report(tmp_path: Path) -> None:
    command = f'pipeline generate "A PROMPT" --workspace {tmp_path}'
    assert next_command(tmp_path, "train") == command
    assert next_command(tmp_path, "report") is None
    report = StageReport(stage="report", outcome="done")
    assert with_next(report, tmp_path, "report") is report


def test_the_json_report_has_it_too(tmp_path: Path) -> None:
    folder, workspace = make_folder(tmp_path), tmp_path / "data"
    words = ("scrape", "folder", str(folder), "--workspace", str(workspace))
    result = run_command([*words, "--json"])
    assert json.loads(result.stdout.splitlines()[-1])["next"] == [
        f"Next: pipeline dedupe --workspace {workspace}"
    ]
