"""The examples run as they are, with fewer steps, on the mock server's images."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pipeline

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
PIPELINE = [sys.executable, "-P", "-m", "pipeline"]
SHORT = {
    "PIPELINE_SCRAPE_LIMIT": "4",
    "PIPELINE_TRAIN_CODEC_STEPS": "5",
    "PIPELINE_TRAIN_STEPS": "3",
    "PIPELINE_DEDUPE_VAL_FRACTION": "0.1",
}
ENVIRONMENT = os.environ | SHORT | {
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
}  # fmt: skip

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*words: str | Path, **more: str) -> str:
    """What a program prints."""
    done = subprocess.run(
        words, env=ENVIRONMENT | more, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_stages(source: str, example: str, workspace: Path, *words: str, **more: str) -> Any:
    """The report of `pipeline run` with the options of an example."""
    config = ("--config", str(EXAMPLES / example), "--workspace", str(workspace), "--json")
    report = json.loads(run(*PIPELINE, "run", source, *words, *config, **more).splitlines()[-1])
    return {name: stage["outcome"] for name, stage in report["details"].items()}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of the mock server."""
    command = [*PIPELINE, "replica", "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["address"]).rstrip("/")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def blog(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of the first example."""
    workspace = tmp_path_factory.mktemp("examples") / "blog"
    outcomes = run_stages(
        "dalleblog", "blog.toml", workspace, PIPELINE_SCRAPE_PAGE_URL=f"{server}/blog/dall-e/"
    )
    assert set(outcomes.values()) == {"done"}
    return workspace


def test_every_example_is_listed_and_says_how_it_is_run() -> None:
    listed = set(re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text()))
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert listed == files
    for name in files:
        assert f"examples/{name}" in (EXAMPLES / name).read_text()


def test_the_blog_becomes_images(blog: Path) -> None:
    images = sorted((blog / "generated" / "default").glob("0000-*.png"))
    assert len(images) == 4
    assert Image.open(images[0]).size == (128, 128)


def test_two_processes_train_together(blog: Path) -> None:
    run("sh", EXAMPLES / "two_processes.sh", blog, "--steps", "2")
    details = json.loads((blog / "runs" / "two" / "manifest.json").read_text())
    assert details["counts"]["samples"] == 2 * 2 * 8  # steps × processes × batch


def test_a_loop_of_ones_own_reads_the_shards(blog: Path) -> None:
    printed = run(sys.executable, EXAMPLES / "own_loop.py", blog / "shards" / "default", "40")
    losses = [float(text) for text in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 2
    assert losses[1] < losses[0]


def test_a_list_like_cc12m_becomes_a_model(server: str, blog: Path, tmp_path: Path) -> None:
    kept = pipeline.open(blog).kept(columns=["url", "caption"])[::2]
    assert kept.url.str.startswith(server).all()  # nobody else's server is asked
    lines = [f"{url}\t{caption}\n" for url, caption in zip(kept.url, kept.caption, strict=True)]
    (tmp_path / "list.tsv").write_text("".join(lines))
    outcomes = run_stages(
        "urls", "list.toml", tmp_path / "list", str(tmp_path / "list.tsv"),
        PIPELINE_SCRAPE_LIMIT="40", PIPELINE_DEDUPE_NEAR_DUPLICATES="off",
    )  # fmt: skip
    assert outcomes["train"] == "done"
    assert (tmp_path / "list" / "runs" / "dalle" / "manifest.json").exists()


def test_a_folder_becomes_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(24):
        Image.new("RGB", (40, 40), (10 * number, 90, 255 - 10 * number)).save(
            folder / f"{number}.png"
        )
        (folder / f"{number}.txt").write_text(f"shade number {number}\n")
    outcomes = run_stages(
        "folder", "folder.toml", tmp_path / "mine", str(folder), PIPELINE_SCRAPE_LIMIT=""
    )
    assert outcomes["train"] == "done"
    counts = json.loads((tmp_path / "mine" / "dedupe" / "manifest.json").read_text())["counts"]
    assert counts["kept"] == 24
