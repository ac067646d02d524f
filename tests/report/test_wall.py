"""The wall of scraped images: as many captions and images as asked for, from all sections in turn."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from PIL import Image

from pipeline.core.storage import make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.run import run, why_run
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png

RANKS = 4


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """3 captions in one section and 2 in another, each with an image of the ranks 0 to 3."""
    raw = RawStore(tmp_path_factory.mktemp("report") / "data")
    captions = [("a", "one"), ("a", "two"), ("a", "three"), ("b", "four"), ("b", "five")]
    for number, (section, caption) in enumerate(captions):
        for rank in range(RANKS):
            key = f"{section}-{caption}-{rank}"
            png = photo_png(10 * number + rank)
            raw.add(key, png, f"{caption} <thing>", rank=rank, section=section)
    workspace = raw.write()
    dedupe(workspace)
    return workspace


def soup_of(workspace: Workspace, **options: Any) -> BeautifulSoup:
    """The list of kept images on the page."""
    run(ReportConfig(workspace=workspace.root, **options))
    soup = BeautifulSoup((workspace.root / "report.html").read_text(), "lxml")
    kept = soup.find(id="kept")
    assert kept is not None
    return BeautifulSoup(str(kept), "lxml")


def wall(workspace: Workspace, **options: int) -> dict[str, list[int]]:
    """The ranks shown of each caption, in the order of the page."""
    return {
        row.select(".text")[0].text.removesuffix(" <thing>"): [
            int(str(image["alt"]).removeprefix("rank ")) for image in row.find_all("img")
        ]
        for row in soup_of(workspace, **options).find_all("li")
    }


@pytest.mark.parametrize("ranks", [1, RANKS - 1, RANKS, RANKS + 1])
def test_a_row_has_the_best_ranks_and_no_more_than_asked_for(
    ranks: int, workspace: Workspace
) -> None:
    shown = wall(workspace, wall_ranks=ranks)
    assert set(map(tuple, shown.values())) == {tuple(range(min(ranks, RANKS)))}


@pytest.mark.parametrize(
    ("captions", "shown"),
    [
        (1, ["one"]),
        (2, ["one", "five"]),
        (3, ["one", "three", "five"]),
        (4, ["one", "three", "five", "four"]),
        (5, ["one", "three", "two", "five", "four"]),
        (6, ["one", "three", "two", "five", "four"]),
    ],
)
def test_captions_come_from_the_sections_in_turn(
    captions: int, shown: list[str], workspace: Workspace
) -> None:
    assert list(wall(workspace, wall_captions=captions)) == shown


@pytest.mark.parametrize("ranks", [1, RANKS - 1, RANKS, RANKS + 1])
def test_a_row_of_images_without_ranks_has_no_more_than_asked_for(
    ranks: int, tmp_path: Path
) -> None:
    raw = RawStore(tmp_path / "data")
    for number in range(RANKS):
        raw.add(f"k{number}", photo_png(number), "a cat", rank=None)
    workspace = raw.write()
    dedupe(workspace)
    assert len(soup_of(workspace, wall_ranks=ranks).find_all("img")) == min(ranks, RANKS)


def test_captions_with_one_image_each_are_shown_side_by_side(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    for number in range(10):
        raw.add(f"k{number}", photo_png(number), f"cat {number}", rank=None)
    workspace = raw.write()
    dedupe(workspace)
    soup = soup_of(workspace, wall_captions=1, wall_ranks=3)
    captions = [caption.text for caption in soup.select(".text")]
    assert captions == ["cat 0", "cat 3", "cat 6"]
    assert [image["alt"] for image in soup.find_all("img")] == captions


@pytest.mark.parametrize("side", [16, 40])
def test_images_have_the_size_asked_for(side: int, workspace: Workspace) -> None:
    images = soup_of(workspace, thumbnail=side).find_all("img")
    assert {(image["width"], image["height"]) for image in images} == {(str(side), str(side))}


def test_images_that_are_not_square_are_neither_cut_nor_stretched(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    raw.add("wide", encode(photo(1, 50, 200)), "wide", rank=None)
    raw.add("tall", encode(photo(2, 300, 100)), "tall", rank=None)
    workspace = raw.write()
    dedupe(workspace)
    found = {}
    for image in soup_of(workspace).find_all("img"):
        data = base64.b64decode(str(image["src"]).partition(",")[2])
        shown = tuple(int(str(image[name])) for name in ("width", "height"))
        found[image["alt"]] = (shown, Image.open(io.BytesIO(data)).size)
    assert found == {"wide": ((96, 24), (192, 48)), "tall": ((32, 96), (64, 192))}


def test_a_log_that_grew_makes_the_page_anew(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "data").open(source="dalleblog")
    folder = workspace.run("dalle")
    folder.mkdir(parents=True)
    write_manifest(folder, make_manifest("run", config={}, inputs={}, counts={}, files=()))
    log = folder / "log.jsonl"
    log.write_text('{"step": 1, "loss": 2.5}\n')
    config = ReportConfig(workspace=workspace.root)
    run(config)
    assert why_run(config, None) is None
    log.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5}\n')
    assert why_run(config, None) == "report.html is outdated"
