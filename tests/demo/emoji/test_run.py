"""`pipeline emoji`: from the font to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.demo.emoji.installed import needs_font, short_list
from tests.helpers.cli import run_command

TINY = """
[dedupe]
val_fraction = 0.2
[train-tokenizer]
vocab_size = 300
[train-codec]
image_size = 32
channels = 8
steps = 3
[train]
dim = 16
depth = 1
heads = 1
dim_head = 16
steps = 3
"""


@needs_font
def test_all_stages_run_and_a_second_run_finds_everything_up_to_date(tmp_path: Path) -> None:
    names = short_list(tmp_path / "names.txt", every=60)
    config = tmp_path / "tiny.toml"
    config.write_text(TINY)
    root = tmp_path / "data"
    command = ("emoji", "--names", str(names), "--config", str(config), "--workspace", str(root))
    result = run_command([*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout.splitlines()[-1])
    assert report["outcome"] == "done"
    kept = report["details"]["dedupe"]["counts"]["kept"]
    assert kept > 20
    tiles = {
        tile["label"]: tile["value"]
        for tile in json.loads((root / "measurements.json").read_bytes())
    }
    assert any(f"among {kept:,}" in label for label in tiles)
    assert "emoji of that name" in (root / "report.html").read_text()
    again = json.loads(run_command([*command, "--json"]).stdout.splitlines()[-1])
    outcomes = {name: report["outcome"] for name, report in again["details"].items()}
    assert set(outcomes.values()) == {"unchanged"}, outcomes
    assert again["outcome"] == "unchanged"


def test_without_a_list_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.demo.emoji.run.FONTS", (tmp_path / "none.ttf",))
    result = run_command(["emoji", "--workspace", str(tmp_path / "data")])
    assert result.exit_code == 1
    assert "fonts-noto-color-emoji" in result.output
    assert not (tmp_path / "data").exists()
