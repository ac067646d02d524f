"""Near duplicates and rejected images in the report: largest clusters first, every reason, limits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bs4 import BeautifulSoup

from pipeline.core.workspace import Workspace
from pipeline.report.config import ReportConfig
from pipeline.report.gallery import REJECTED_OF_A_REASON, thin_out
from pipeline.report.run import run
from tests.helpers.dedupe import RawStore, dedupe, encode, photo, photo_png


def near(seed: int, step: int) -> bytes:
    """An image that looks like `photo(seed)`, in other pixels for every step."""
    pixels = photo(seed).astype(int)
    pixels[0, 0] = (pixels[0, 0] + step) % 256
    return encode(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def soup(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    """The page of three clusters (of 4, 2 and 1 images), with more copies and failures than are shown."""
    raw = RawStore(tmp_path_factory.mktemp("gallery") / "data")
    for seed, images in ((1, 2), (2, 4), (3, 1)):
        for step in range(images):
            raw.add(f"s{seed}i{step}", near(seed, step), f"caption {seed}", rank=step)
    for number in range(REJECTED_OF_A_REASON + 3):
        raw.add(f"copy{number:02}", near(3, 0), "a copy", rank=50 + number)
        raw.add(f"gone{number:02}", None, "gone", reason="http_404")
    workspace = raw.write()
    dedupe(workspace)
    return soup_of(workspace)


def soup_of(workspace: Workspace) -> BeautifulSoup:
    run(ReportConfig(workspace=workspace.root))
    return BeautifulSoup((workspace.root / "report.html").read_text(), "lxml")


def test_clusters_come_largest_first_and_single_images_are_none(soup: BeautifulSoup) -> None:
    items = soup.select("#clusters > li")
    assert [item.p.text for item in items if item.p] == [
        "4 images, 1 caption: caption 2",
        "2 images, 1 caption: caption 1",
    ]
    assert [len(item.select("img")) for item in items] == [4, 2]


def test_of_every_reason_a_bounded_number_is_shown(soup: BeautifulSoup) -> None:
    items = soup.select("#rejected > li")
    reasons = [str(item["data-reason"]) for item in items]
    assert {reason: reasons.count(reason) for reason in reasons} == {
        "duplicate_bytes": REJECTED_OF_A_REASON,
        "not_fetched": REJECTED_OF_A_REASON,
    }


def test_a_copy_is_beside_the_image_that_represents_it(soup: BeautifulSoup) -> None:
    (copy, *_) = soup.select('#rejected > li[data-reason="duplicate_bytes"]')
    assert [image["alt"] for image in copy.select("img")] == ["rejected: a copy", "kept: caption 3"]
    (gone, *_) = soup.select('#rejected > li[data-reason="not_fetched"]')
    assert gone.select("img") == []
    assert "no bytes" in gone.text


def test_a_damaged_segment_hides_its_images_not_the_page(tmp_path: Path) -> None:
    raw = RawStore(tmp_path / "data")
    raw.add("k0", photo_png(0), "a cat", rank=None)
    workspace = raw.write()
    dedupe(workspace)
    (workspace.segments / "00000.tar").unlink()
    soup = soup_of(workspace)
    assert "a cat" in soup.select("#kept")[0].text
    assert soup.select("#kept img") == []
    assert "can't be read" in str(soup.select("#kept .none")[0]["title"])


@pytest.mark.parametrize(
    ("rows", "number", "chosen"),
    [(10, 3, [0, 3, 6]), (2, 5, [0, 1]), (0, 5, []), (5, 5, [0, 1, 2, 3, 4])],
)
def test_rows_are_thinned_out_evenly(rows: int, number: int, chosen: list[int]) -> None:
    assert thin_out(list(range(rows)), number) == chosen
