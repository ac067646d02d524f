"""`scrape urls --engine img2dataset`: what it downloaded, and what it could not, is in the ledger."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import Result

from pipeline.core.errors import ConfigError
from pipeline.core.workspace import Workspace
from pipeline.verify.check import check_workspace
from scrapers.rawstore.ledger import Ledger
from scrapers.sources.urls.config import UrlsConfig
from tests.helpers.cli import run_command
from tests.scrapers.bulk.test_download import Site, needs_img2dataset, png, site
from tests.scrapers.sources.urls.lists import write

__all__ = ["site"]


def scrape(path: Path, root: Path, *options: str) -> Result:
    python = os.environ.get("DALLE_IMG2DATASET_PYTHON", sys.executable)
    bulk = ["--engine", "img2dataset", "--img2dataset-python", python]
    call = [
        "scrape",
        "urls",
        str(path),
        "--workspace",
        str(root),
        *bulk,
        "--attempts",
        "1",
        *options,
    ]
    return run_command(call)


def rows(root: Path) -> dict[str, tuple[Any, ...]]:
    """State, reason, captions, extra and segment of each URL's path."""
    ledger = Ledger(Workspace(root).ledger)
    try:
        found = ledger.query(
            "SELECT url, state, reason, coalesce(captions, json_array(caption)), extra, segment"
            " FROM items"
        )
        return {str(url).rpartition("/")[2]: tuple(rest) for url, *rest in found}
    finally:
        ledger.close()


@pytest.fixture
def listed(site: Site, tmp_path: Path) -> Path:
    lines = ["url\tcaption\tlicense"]
    lines += [f"{site.url}/{n}.png\tcaption {n}\tCC-{n}" for n in range(30)]
    lines += [
        f"{site.url}/7.png\tanother\t",
        f"{site.url}/noai-1.png\tx\t",
        f"{site.url}/gone.png\ty\t",
    ]
    return write(tmp_path / "l.tsv", "\n".join(lines) + "\n")


@needs_img2dataset
@pytest.mark.slow
def test_a_list_downloaded_in_bulk_goes_through_the_ledger_and_goes_on(
    site: Site, listed: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    done = scrape(listed, root, "--keep-columns", "license")
    assert done.exit_code == 0, done.output
    assert "asks no robots.txt" in done.output
    found = rows(root)
    assert len(found) == 32
    state, _, captions, extra, segment = found["7.png"]
    assert (state, json.loads(captions)) == ("done", ["caption 7", "another"])
    assert json.loads(extra)["license"] == "CC-7"
    assert segment.startswith(str(tmp_path / "data.img2dataset" / "round-0000"))
    assert found["noai-1.png"][:2] == ("opted_out", "x_robots_tag")
    assert found["gone.png"][:2] == ("missing", "http_404")
    assert [each.state for each in check_workspace(root)] == ["ok"]

    asked = dict(site.requests)
    assert scrape(listed, root, "--keep-columns", "license").exit_code == 0
    assert dict(site.requests) == asked
    write(listed, listed.read_text() + f"{site.url}/99.png\tnew\t\n")
    assert scrape(listed, root, "--keep-columns", "license").exit_code == 0
    assert set(site.requests) - set(asked) == {"/99.png"}
    assert rows(root)["99.png"][0] == "done"

    local = ["scrape", "urls", "--workspace", str(root), "--engine", "local"]
    done = run_command(local)
    assert done.exit_code == 0, done.output
    assert {path: n for path, n in site.requests.items() if path != "/robots.txt"} == {
        **asked, "/99.png": 1,
    }  # fmt: skip


@needs_img2dataset
@pytest.mark.slow
def test_what_img2dataset_resized_is_known_by_both_hashes(
    site: Site, listed: Path, tmp_path: Path
) -> None:
    write(listed, listed.read_text() + f"{site.url}/late-40.png\tnot there yet\t\n")
    root = tmp_path / "data"
    sizes = "--max-side", "20", "--encode-format", "webp"
    assert "img2dataset asks no robots.txt" in scrape(listed, root, *sizes).output
    assert len(resized(root)) == 30
    site.is_late = False
    done = scrape(listed, root, *sizes, "--retry-failed")
    assert done.exit_code == 0, done.output
    found = resized(root)
    assert len(found) == 31
    for url, sha256, original, stored in found:
        served = png(int(url.rpartition("/")[2].removesuffix(".png").rpartition("-")[2]))
        assert original == hashlib.sha256(served).hexdigest()
        assert sha256 == hashlib.sha256(stored).hexdigest()
        image = Image.open(io.BytesIO(stored))
        assert (image.format, image.size) == ("WEBP", (20, 15))
    assert [each.state for each in check_workspace(root)] == ["ok"]


def resized(root: Path) -> list[tuple[str, str, str, bytes]]:
    """URL, hashes and stored bytes of each image."""
    ledger = Ledger(Workspace(root).ledger)
    query = "SELECT url, sha256, original_sha256, segment, offset, bytes FROM items WHERE state = 'done'"
    found = []
    for url, sha256, original, segment, offset, size in ledger.query(query):
        path = Workspace(root).segments / str(segment)  # the user's own, if that is absolute
        data = path.read_bytes()[int(str(offset)) :][: int(str(size))]
        found.append((str(url), str(sha256), str(original), data))
    ledger.close()
    return found


@needs_img2dataset
@pytest.mark.slow
def test_what_is_small_enough_has_one_hash(site: Site, listed: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    done = scrape(listed, root, "--max-side", "40", "--encode-format", "png")
    assert done.exit_code == 0, done.output
    ledger = Ledger(Workspace(root).ledger)
    query = "SELECT original_sha256, count(*) FROM items WHERE state = 'done' GROUP BY 1"
    assert list(ledger.query(query)) == [(None, 30)]
    ledger.close()


def test_the_interpreter_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--img2dataset-python, the python of an environment"):
        UrlsConfig(source="urls", workspace=tmp_path, engine="img2dataset")


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({"verify_hash": "sha256=h"}, "--verify-hash"),
        ({"refresh": True}, "--refresh"),
        ({"proxy": "http://p.test:1"}, "--proxy"),
        ({"header": ("A: b",)}, "--header"),
    ],
)
def test_what_img2dataset_can_not_do_is_refused(
    tmp_path: Path, options: dict[str, Any], flag: str
) -> None:
    with pytest.raises(ConfigError, match=f"{flag} can't be used with"):
        UrlsConfig(
            source="urls",
            workspace=tmp_path,
            engine="img2dataset",
            img2dataset_python=Path("python3"),
            **options,
        )


def test_a_wrong_interpreter_leaves_the_round_to_go_on_with(
    site: Site, listed: Path, tmp_path: Path
) -> None:
    python = ["--img2dataset-python", sys.executable]
    done = scrape(listed, tmp_path / "data", *python)
    assert done.exit_code == 1
    assert "has no package img2dataset" in done.output
    assert (tmp_path / "data.img2dataset" / "round-0000" / "list.parquet").exists()
    assert "has no package img2dataset" in scrape(listed, tmp_path / "data", *python).output
    assert not (tmp_path / "data.img2dataset" / "round-0001").exists()
