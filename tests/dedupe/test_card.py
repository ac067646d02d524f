"""The dataset card: with it the library `datasets` reads the folder, offline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.core.workspace import Workspace
from tests.helpers.dedupe import RawStore, dedupe, photo_png


@pytest.fixture
def workspace(raw: RawStore) -> Workspace:
    for number in range(30):
        raw.add(f"k{number:03}", photo_png(number), f"a cat in {number} hats")
    raw.add("missing", None)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.3)
    return workspace


def load(workspace: Workspace, tmp_path: Path, *names: str) -> Any:
    return datasets.load_dataset(str(workspace.dedupe), *names, cache_dir=str(tmp_path / "hf"))


def test_load_dataset_reads_the_folder_unchanged(workspace: Workspace, tmp_path: Path) -> None:
    loaded = load(workspace, tmp_path)
    assert {split: len(rows) for split, rows in loaded.items()} == {"rows": 30}
    assert loaded["rows"][0]["key"] == "k000"
    assert set(loaded["rows"].unique("split")) == {"train", "val"}


@pytest.mark.parametrize(
    ("name", "rows"), [("kept", 30), ("rejected", 1), ("captions", 31), ("inspections", 30)]
)
def test_every_table_has_a_config(
    workspace: Workspace, tmp_path: Path, name: str, rows: int
) -> None:
    (loaded,) = load(workspace, tmp_path, name).values()
    assert len(loaded) == rows


def test_the_cards_code_runs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = (workspace.dedupe / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(workspace.root)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "hf"))
    names: dict[str, Any] = {}
    exec(code, names)
    train = len(names["train"])
    assert 0 < train < 30
    assert f"{train} images train, {30 - train} validate" in card
    assert len(names["rejected"]) == 1
