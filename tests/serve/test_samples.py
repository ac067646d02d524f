"""The page of one sample: what shards and codes say of it, by the code of the report."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from pipeline.core.workspace import Workspace
from pipeline.models.codecs.load import load_codec
from pipeline.models.codecs.reconstruct import reconstruct
from pipeline.serve import sample_lookup
from pipeline.webdata.reader import ShardReader
from tests.helpers.dedupe import kept
from tests.helpers.whole_workspace import Whole, whole
from tests.serve.conftest import Serve
from tests.serve.images import write_images

__all__ = ["whole"]  # a fixture


@pytest.fixture
def copy(whole: Whole, tmp_path: Path) -> Workspace:
    return Workspace(whole.copy(tmp_path / "data").root)


@pytest.fixture
def page(
    serve: Serve, copy: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], BeautifulSoup]:
    """Get the page of a sample; it waits until everything is looked up, and nothing is kept for long."""
    monkeypatch.setattr(sample_lookup, "WAIT_S", 300.0)
    monkeypatch.setattr(sample_lookup, "FRESH_S", 0.0)
    served = serve(workspace=copy.root, index=tmp_path / "index")

    def get(key: str) -> BeautifulSoup:
        answer = served.page(f"/sample/{key}")
        assert answer.status == 200
        return BeautifulSoup(answer.text, "lxml")

    return get


def in_shards(soup: BeautifulSoup) -> dict[str, str]:
    rows = soup.select('[aria-label="In the shards"] tbody tr')
    return {cells[0].text: cells[1].text for cells in (row.select("td") for row in rows)}


def record(soup: BeautifulSoup) -> dict[str, Any]:
    shown = soup.select_one("pre")
    assert shown is not None
    found: dict[str, Any] = json.loads(unescape(shown.text))
    return found


def reconstruction(soup: BeautifulSoup) -> Any:
    """The pixels beside the original; None if there is no such image."""
    image = soup.select_one('img[alt="Reconstruction from codes"]')
    if image is None:
        return None
    data = str(image["src"]).removeprefix("data:image/png;base64,")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_sample_shows_its_shard_its_ids_as_text_and_what_its_codes_decode_to(
    page: Callable[[str], BeautifulSoup], copy: Workspace
) -> None:
    reader = ShardReader(copy.shards("default"), "train")
    codec = load_codec(copy.codec("small"))
    for number in (0, len(reader) - 1):
        sample = reader.sample(number)
        soup = page(sample.key)
        facts = in_shards(soup)
        assert facts["shard"] == f"shards/default/{reader.url_of(number)}"
        assert facts["ids as text"].strip() == sample.caption.lower()
        assert record(soup)["shard"] == {"key": sample.key, "json": sample.record}
        assert record(soup)["dedupe"]["url"] == sample.record["url"]
        assert np.array_equal(reconstruction(soup), reconstruct(codec, sample.codes[None])[0])
        assert re.search(r"reconstruction, PSNR \d+\.\d dB", soup.text)


def test_without_shards_the_reconstruction_is_made_from_the_tables_of_codes(
    page: Callable[[str], BeautifulSoup], copy: Workspace
) -> None:
    key = sorted(kept(copy))[0]
    with_shards = page(key)
    shutil.rmtree(copy.root / "shards")
    soup = page(key)
    assert np.array_equal(reconstruction(soup), reconstruction(with_shards))
    assert "There are no shards yet. Run pipeline shard." in soup.text
    assert record(soup)["shard"] is None
    shutil.rmtree(copy.root / "codes")
    assert reconstruction(page(key)) is None


def test_shards_that_were_changed_are_said_to_be_damaged(
    page: Callable[[str], BeautifulSoup], copy: Workspace
) -> None:
    for tar in copy.shards("default").glob("*/*.tar"):
        tar.write_bytes(tar.read_bytes()[:-512])
    soup = page(sorted(kept(copy))[0])
    assert "its index expects" in soup.text
    assert reconstruction(soup) is None


def test_a_codec_that_is_gone_leaves_the_shard_and_the_ids(
    page: Callable[[str], BeautifulSoup], copy: Workspace
) -> None:
    shutil.rmtree(copy.root / "codecs")
    soup = page(sorted(kept(copy))[0])
    assert in_shards(soup)["shard"].startswith("shards/default/")
    assert "codec" in soup.select(".notice")[0].text
    assert reconstruction(soup) is None


def test_only_kept_images_are_looked_up(serve: Serve, tmp_path: Path) -> None:
    workspace = write_images(tmp_path / "data", plain=1)
    served = serve(workspace=workspace.root, index=tmp_path / "index")
    assert "In the shards" in served.page("/sample/webp-0").text
    assert "In the shards" not in served.page("/sample/svg-0").text


@pytest.mark.parametrize("limit", [{"WAIT_S": 0.0}, {"MOST_WAITING": 0}])
def test_a_page_does_not_wait_for_a_slow_look_up(
    limit: dict[str, float],
    serve: Serve,
    copy: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(sample_lookup, name, value)
    path = f"/sample/{sorted(kept(copy))[0]}"
    served = serve(workspace=copy.root, index=tmp_path / "index")
    assert "still being looked up" in served.page(path).text
    monkeypatch.setattr(sample_lookup, "MOST_WAITING", 8)
    end = time.monotonic() + 120
    while "still being looked up" in (text := served.page(path).text):
        assert time.monotonic() < end
    assert "ids as text" in text
