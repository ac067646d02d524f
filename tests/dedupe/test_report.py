"""`report.html` matches the stage's tables, and the README's queries run on them."""

from __future__ import annotations

import re
from collections import Counter
from html import unescape
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.report.config import ReportConfig
from pipeline.report.run import run as write_report
from tests.dedupe.planting import Crawl
from tests.helpers.dedupe import dedupe

README = Path(__file__).parents[2] / "README.md"


class Tables:
    """The tables of the stage as pandas reads them."""

    def __init__(self, folder: Path) -> None:
        self.kept = pd.read_parquet(folder / "kept")
        self.rejected = pd.read_parquet(folder / "rejected")
        self.captions = pd.read_parquet(folder / "captions.parquet")


@pytest.fixture
def tables(crawl: Crawl) -> Tables:
    dedupe(crawl.workspace, workers=2, val_fraction=0.3)
    write_report(ReportConfig(workspace=crawl.workspace.root))
    return Tables(crawl.workspace.dedupe)


def read_table(crawl: Crawl, title: str) -> list[list[str]]:
    """The rows of the table under a heading of the report, header first; numbers without commas."""
    html = (crawl.workspace.root / "report.html").read_text()
    section = re.split(rf"<h3>{re.escape(title)}</h3>", html)[1].split("<h3")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub(r"(?<=\d),(?=\d)", "", unescape(cell)) for cell in row] for row in cells]


def test_sections_and_reasons_are_those_of_the_tables(crawl: Crawl, tables: Tables) -> None:
    verdicts = pd.concat([tables.kept.assign(reason="kept"), tables.rejected])
    counted = verdicts.groupby(["section", "reason"]).size().unstack(fill_value=0)
    head, *rows = read_table(crawl, "Kept and rejected")
    assert head == ["section", *(reason.replace("_", " ") for reason in counted.columns)]
    assert rows == [[name, *map(str, counted.loc[name])] for name in counted.index]
    by_reason = tables.rejected.groupby(["reason", "section"], as_index=False).size()
    by_reason["reason"] = by_reason["reason"].str.replace("_", " ")
    assert read_table(crawl, "Rejected images")[1:] == by_reason.astype(str).to_numpy().tolist()
    assert {"duplicate_bytes", "too_large", "not_fetched"} < set(tables.rejected["reason"])


def test_the_kinds_of_kept_images_are_those_of_the_tables(crawl: Crawl, tables: Tables) -> None:
    assert tables.kept.groupby(["width", "height"]).ngroups <= 10  # no more sizes are listed
    found = {
        (group, name): int(n)
        for group, name, n in read_table(crawl, "Properties of kept images")[1:]
    }
    assert found == expected_kinds(tables)


def expected_kinds(tables: Tables) -> dict[tuple[str, str], int]:
    kept, captions = tables.kept, tables.captions
    formats = (kept["format"] + " " + kept["mode"]).value_counts()
    sizes = (kept["width"].astype(str) + "x" + kept["height"].astype(str)).value_counts()
    alike = kept.groupby("cluster").agg(images=("key", "size"), captions=("caption_id", "nunique"))
    within = alike[(alike["images"] > 1) & (alike["captions"] == 1)]
    across = alike[alike["captions"] > 1]
    with_images = captions[captions["images"] > 0]
    kinds: dict[str, Any] = {
        "splits": kept["split"].value_counts(),
        "formats": formats,
        "sizes, the most frequent": sizes,
        "traits": {"blank": kept["is_blank"].sum(), "alpha": kept["has_alpha"].sum()},
        "near duplicates": {
            "clusters within captions": len(within),
            "images within captions": within["images"].sum(),
            "clusters across captions": len(across),
            "images across captions": across["images"].sum(),
        },
        "captions": {
            "with images": len(with_images),
            "val with images": (with_images["split"] == "val").sum(),
        },
    }
    return {(kind, str(name)): int(n) for kind, ns in kinds.items() for name, n in ns.items()}


def test_the_stage_is_shown_with_its_counts(crawl: Crawl, tables: Tables) -> None:
    told = {row[0]: row[2] for row in read_table(crawl, "Folders")[1:]}["dedupe"]
    counts = {name: int(n) for name, n in re.findall(r"(\w[\w ]*) (\d+)", told)}
    rows = {"kept": len(tables.kept), "rejected": len(tables.rejected)}
    reasons = Counter(reason.replace("_", " ") for reason in tables.rejected["reason"])
    assert counts == {"rows": sum(rows.values()), **rows, **reasons}


def test_the_questions_of_the_readme_run_as_printed(
    crawl: Crawl, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "data/try/dedupe" in block)
    for question in block.strip().split("\n\n"):
        assert len(question.splitlines()) <= 3
    names: dict[str, Any] = {}
    exec(block.replace("data/try", str(crawl.workspace.root)), names)
    pd.testing.assert_frame_equal(names["kept"], tables.kept)
    pd.testing.assert_frame_equal(names["rejected"], tables.rejected)
    printed = capsys.readouterr().out
    whole = (tables.captions["ranks"] == 2**32 - 1).sum()
    assert f"{whole} captions have all 32 images" in printed
    by_split = tables.kept.groupby(["section", "split"], as_index=False).size()
    expected = by_split[["split", "size"]].astype(str).to_numpy().tolist()
    assert re.findall(r"(train|val) +(\d+)", printed)[: len(expected)] == list(map(tuple, expected))
