"""docs/dedupe.md is true: its columns are the contract's, and its examples run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from pipeline.core.contracts import CAPTIONS, INSPECTIONS, KEPT, REJECT_REASONS, REJECTED, Column
from pipeline.core.workspace import Workspace
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png

DOCS = (Path(__file__).parents[2] / "docs" / "dedupe.md").read_text()
TABLES = {
    "kept/*.parquet": KEPT,
    "rejected/*.parquet": REJECTED,
    "captions.parquet": CAPTIONS,
    "inspections.parquet": INSPECTIONS,
}


@pytest.fixture
def workspace(raw: RawStore) -> Workspace:
    """A complete caption, one with gaps in two sections, a near duplicate elsewhere, two rejected images."""
    for rank in range(32):
        raw.add(f"all{rank:02}", photo_png(rank), "a cat", rank=rank)
    raw.add("gap5", photo_png(50), "a dog", rank=5)
    raw.add("gap7", photo_png(51), "A dog", rank=7, section="animals")
    brighter = np.clip(photo(3).astype(int) + 1, 0, 255).astype(np.uint8)
    raw.add("alike", encode(brighter), "a horse", rank=40)
    raw.add("copy", photo_png(4), "a cow", rank=9)
    raw.add("gone", None, "a sheep", rank=0, section="animals")
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.0)
    return workspace


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", DOCS, flags=re.MULTILINE | re.DOTALL)


def run_examples(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run every example, one after another, and return the names that they define."""
    monkeypatch.chdir(workspace.root)
    names: dict[str, Any] = {}
    for example in examples():
        assert len(example.splitlines()) <= 3
        exec(example, names)
    return names


def documented(name: str) -> list[tuple[str, str, str]]:
    section = DOCS.split(f"### `dedupe/{name}`", 1)[1].split("\n\n")[1]
    return re.findall(r"^\| `(\w+)` \| (\S+) \| (.*) \|$", section, flags=re.MULTILINE)


@pytest.mark.parametrize(("name", "columns"), TABLES.items())
def test_every_column_is_documented(name: str, columns: tuple[Column, ...]) -> None:
    assert documented(name) == [tuple(column) for column in columns]


def test_every_reason_is_documented() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| .* \| (?:that row)? ?\|$", DOCS, re.MULTILINE)) >= set(
        REJECT_REASONS
    )


def test_the_examples_answer_their_questions(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = run_examples(workspace, monkeypatch)
    assert names["by_section"].to_dict() == {"animals": 1, "emojis": 34}
    assert names["by_size"].to_dict() == {(64, 64): 35}
    assert names["reasons"].to_dict() == {
        ("animals", "not_fetched"): 1,
        ("emojis", "duplicate_bytes"): 1,
    }
    assert names["copies"][["key", "key_kept"]].to_numpy().tolist() == [["copy", "all04"]]
    assert names["in_several"]["caption_normalized"].tolist() == ["a dog"]
    assert names["by_split"].loc["train"].tolist() == [5, 35]
    assert names["across"].index.tolist() == ["all03"]
    assert names["members"]["key"].tolist() == ["all03", "alike"]
    assert names["complete"]["caption"].tolist() == ["a cat"]
    assert dict(names["lacking"][["caption_normalized", "lacking"]].to_numpy())["a dog"] == 30
    assert set(names["without_best"]["caption_normalized"]) == {
        "a cow", "a dog", "a horse", "a sheep",
    }  # fmt: skip
    assert len(names["used"]) == 35
    assert dict(names["by_reason"].iter_rows()) == {"duplicate_bytes": 1, "not_fetched": 1}
    assert names["counted"] == [("duplicate_bytes", 1), ("not_fetched", 1)]


@pytest.mark.parametrize("name", sorted(TABLES))
def test_pandas_polars_and_duckdb_read_the_same(workspace: Workspace, name: str) -> None:
    path = workspace.dedupe / name
    in_pandas = pd.read_parquet(path.parent if "*" in name else path, dtype_backend="pyarrow")
    expected = in_pandas.astype(object).where(in_pandas.notna(), None).to_dict("records")
    assert len(expected) > 0
    assert [plain(row) for row in pl.read_parquet(path).to_dicts()] == [plain(r) for r in expected]
    found = duckdb.sql(f"SELECT * FROM '{path}'")
    assert found is not None
    rows = [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
    assert [plain(row) for row in rows] == [plain(row) for row in expected]


def plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, np.ndarray) else v for k, v in row.items()}
