"""What the real img2dataset writes; skipped unless DALLE_IMG2DATASET_PYTHON names its interpreter."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import get_args

import pytest

from pipeline.core.storage import sha256_bytes
from tests.helpers.crawls import Ask, Server, answer
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import differences, rows, scrape_source
from tests.scrapers.sources.img2dataset.outputs import Format

PYTHON = os.environ.get("DALLE_IMG2DATASET_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="DALLE_IMG2DATASET_PYTHON is not set")

_ANSWERS = {
    "/gone.png": answer(b"", 404),
    "/busy.png": answer(b"", 503),
    "/no.png": answer(b"<html>"),
    "/out.png": answer(make_png(99), X_Robots_Tag="noai"),
}


async def site(ask: Ask) -> bytes:
    """Images by number, and some that can't be had."""
    number = ask.path.strip("/").removesuffix(".png")
    return answer(make_png(int(number))) if number.isdigit() else _ANSWERS[ask.path]


def download(server: Server, folder: Path, form: str) -> Path:
    """Run img2dataset over 12 images and the four that fail."""
    names = [*(f"{n}.png" for n in range(12)), "gone.png", "busy.png", "no.png", "out.png"]
    lines = [f"{server.url}/{name}\tcaption of {name}\t{n}" for n, name in enumerate(names)]
    (folder / "list.tsv").write_text("\n".join(["url\tcaption\tid", *lines]) + "\n")
    options = {
        "url_list": folder / "list.tsv", "input_format": "tsv", "url_col": "url", "caption_col": "caption",
        "output_folder": folder / "out", "output_format": form, "number_sample_per_shard": 5, "timeout": 5,
        "processes_count": 1, "thread_count": 4, "image_size": 32, "save_additional_columns": '["id"]',
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [str(PYTHON), "-c", "from img2dataset.main import main; main()", *words]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1", "PYTHONPATH": ""}
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=environment)
    return folder / "out"


@pytest.mark.parametrize("form", get_args(Format))
def test_what_img2dataset_writes_is_read(server: Server, tmp_path: Path, form: str) -> None:
    server.behaviour = site
    output = download(server, tmp_path, form)
    report = scrape_source("img2dataset", output, workspace=tmp_path / "w")
    found = rows(tmp_path / "w")
    assert {name: row.state for name, row in found.items() if row.state != "done"} == {
        "gone.png": "missing",
        "busy.png": "failed",
        "no.png": "not_an_image",
        "out.png": "opted_out",
    }
    assert (report.counts["urls"], report.counts["done"], differences(report)) == (16, 12, "")
    row = found["3.png"]
    assert (row.caption, row.extra and row.extra["id"]) == ("caption of 3.png", 3)
    assert row.extra is not None
    assert row.extra["sha256"] == sha256_bytes(make_png(3))


def test_what_img2dataset_could_not_fetch_is_fetched_by_a_retry(
    server: Server, tmp_path: Path
) -> None:
    server.behaviour = site
    output = download(server, tmp_path, "webdataset")
    scrape_source("img2dataset", output, workspace=tmp_path / "w")
    server.hits.clear()

    async def mended(ask: Ask) -> bytes:
        return answer(make_png(50))

    server.behaviour = mended
    scrape_source("img2dataset", output, workspace=tmp_path / "w", retry_failed=True)
    assert {path for path in server.hits if path.endswith(".png")} == {"/busy.png", "/no.png"}
    assert rows(tmp_path / "w")["busy.png"].state == "done"
