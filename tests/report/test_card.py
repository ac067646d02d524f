"""The card: numbers, the funnel, and generated images beside the nearest training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup

from pipeline.core.inventory import find_folders
from pipeline.core.storage import make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.nearest import find_nearest
from pipeline.report.page import Step, funnel
from pipeline.report.run import run
from pipeline.report.view import View
from tests.helpers.dedupe import RawStore, dedupe, photo, photo_png

EVIL = "<script>alert(1)</script><img src=http://x.test/>"


def declare(folder: Path, contract: str, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    empty: dict[str, Any] = {"config": {}, "inputs": {}, "counts": {}, "files": ()}
    write_manifest(folder, make_manifest(contract, **(empty | values)))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """12 different images, the first with a caption that is markup, and the same images as generated."""
    raw = RawStore(tmp_path / "data")
    for number in range(12):
        raw.add(f"k{number:02}", photo_png(number), EVIL if number == 0 else f"photo {number}")
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.0)
    folder = workspace.generated("default")
    declare(folder, "generated")
    records = []
    for number in range(12):
        (folder / f"{number}.png").write_bytes(photo_png(number))
        records.append({"prompt": EVIL if number == 0 else f"p{number}", "file": f"{number}.png"})
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return workspace


def soup_of(workspace: Workspace) -> BeautifulSoup:
    run(ReportConfig(workspace=workspace.root))
    return BeautifulSoup((workspace.root / "report.html").read_text(), "lxml")


def view_of(workspace: Workspace) -> View:
    config = ReportConfig(workspace=workspace.root)
    return View(workspace=workspace, folders=find_folders(workspace.root), config=config)


def test_eight_generated_images_are_beside_the_nearest_training_image(workspace: Workspace) -> None:
    groups = soup_of(workspace).select(".pairs figure")
    assert len(groups) == 8
    assert all(len(group.select("img")) == 2 for group in groups)
    words = [group.select_one("figcaption").text for group in groups]  # type: ignore[union-attr]
    assert words[3] == "p3distance 0: photo 3"


def test_captions_and_prompts_never_become_markup(workspace: Workspace) -> None:
    soup = soup_of(workspace)
    scripts = soup.find_all("script")
    assert [s.get("type") for s in scripts] == ["application/json", None]
    assert "alert(1)" not in scripts[-1].text
    assert [t for t in soup.find_all(src=True) if not str(t["src"]).startswith("data:")] == []
    assert EVIL in soup.select(".pairs figcaption")[0].text


def test_the_nearest_image_is_a_training_image_with_its_distance(workspace: Workspace) -> None:
    brighter = np.clip(photo(5).astype(int) + 4, 0, 255).astype(np.uint8)
    (near,) = find_nearest(view_of(workspace), [("unknown", brighter)])
    assert near is not None
    assert near.row["caption"] == "photo 5"
    assert 3.0 < near.distance <= 4.0


def test_images_for_validation_are_never_the_nearest(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number in range(20):
        raw.add(f"k{number:02}", photo_png(number), f"photo {number}")
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.5)
    view = view_of(workspace)
    splits = {row["caption"]: row["split"] for row in rows_of(view)}
    held_out = [number for number in range(20) if splits[f"photo {number}"] == "val"]
    found = find_nearest(view, [(f"photo {n}", photo(n)) for n in held_out])
    assert held_out
    assert {splits[near.row["caption"]] for near in found if near is not None} == {"train"}


def rows_of(view: View) -> list[dict[str, Any]]:
    return view.read_table("kept/", ["caption", "split"]).to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("inputs", "shown"),
    [
        (["/p"], "urls /p. Written"),
        (["a", "b", "c"], "urls a, b, c. Written"),
        (["a", "b", "c", "d", "e"], "urls a, b, c and 2 more. Written"),
        ([], "urls. Written"),
        (5, "urls. Written"),
    ],
)
def test_the_card_names_what_the_source_was_given(
    tmp_path: Path, inputs: object, shown: str
) -> None:
    workspace = Workspace(tmp_path / "data")
    workspace.open(source="urls")
    marker = json.loads(workspace.marker.read_text())
    marker["options"] = {"scrape": {"": {"source": "urls", "inputs": inputs}}}
    workspace.marker.write_text(json.dumps(marker))
    assert f"Source: {shown}" in soup_of(workspace).text


def test_captions_in_two_sections_are_counted_once(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number, section in enumerate(("one", "two", "two")):
        raw.add(f"k{number}", photo_png(number), f"photo {number % 2}", section=section, rank=None)
    workspace = raw.write()
    dedupe(workspace, val_fraction=0.0)
    assert "2 of 2 captions, from all sections" in soup_of(workspace).text


def test_the_card_comes_first_and_the_stages_come_last(workspace: Workspace) -> None:
    declare(workspace.run("dalle"), "run", details={"val_loss": 2.5904}, counts={"parameters": 9})
    declare(workspace.codec("small"), "codec", details={"psnr_db": 21.098})
    measured = [{"value": "140 s", "label": "in the stages"}, {"value": "5 s", "label": "dedupe"}]
    (workspace.root / "measurements.json").write_text(json.dumps(measured))
    soup = soup_of(workspace)
    titles = [heading.text for heading in soup.select("main h2")]
    assert titles == ["At a glance", "Data", "Codec", "Training", "Scrape", "Stages"]
    assert [heading.text for heading in soup.select("#stages h3")] == ["Folders", "Measured"]
    first = soup.select(".tiles")[0]
    numbers = ["12", "12", "21.1 dB", "2.590", "9"]
    assert [tile.text for tile in first.select("b")][: len(numbers)] == numbers


def test_the_funnel_says_what_is_lost_at_each_step() -> None:
    lost = (("http_404", 400), ("none", 0), ("<i>", 100))
    steps = [Step(name="URLs", left=2000), Step(name="kept", left=1500, lost=lost)]
    steps += [Step(name="<b>x", left=1500), Step(name="train", left=1400, lost=(("for_val", 100),))]
    soup = BeautifulSoup(funnel(steps), "lxml")
    names = ["URLs: 2,000", "kept: 1,500", "<b>x: 1,500", "train: 1,400"]
    assert [step.text for step in soup.find_all("span")] == names
    assert [step.text for step in soup.find_all("small")] == [
        "−500: http 404 400, <i> 100",
        "−100 for val",
    ]
    assert [bar["style"] for bar in soup.find_all("i")] == [
        "width:100.0%",
        "width:75.0%",
        "width:75.0%",
        "width:70.0%",
    ]


def test_a_workspace_without_anything_has_a_page(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    soup = soup_of(workspace)
    assert soup.main is not None
    assert soup.main.h1 is not None


def test_no_table_has_an_empty_header(workspace: Workspace) -> None:
    headers = [header.text for header in soup_of(workspace).find_all("th")]
    assert headers
    assert "" not in headers
