"""The worked examples of docs/extending.md, applied to a copy of the code and run as the page says."""

from __future__ import annotations

import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COLOURS = {"a red square": (255, 0, 0), "a blue square": (0, 0, 255), "a green one": (0, 255, 0)}


def blocks(kind: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == kind]


def shown_command(name: str) -> str:
    """The arguments of the first command of this name on the page."""
    lines = [line for block in blocks("") for line in block.splitlines()]
    command = next(line for line in lines if line.startswith(f"pipeline {name} "))
    return command.removeprefix("pipeline ")


def apply_page(copy: Path) -> None:
    """Write the files and apply the changes that the page prints."""
    for block in blocks("python"):
        path = copy / block.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.partition("\n")[2])
    for block in blocks("diff"):
        head, *lines = block.splitlines()
        path = copy / head.removeprefix("--- ")
        before = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
        after = "".join(f"{line[1:]}\n" for line in lines)
        assert path.read_text().count(before) == 1, block
        path.write_text(path.read_text().replace(before, after))


# Runs the commands that it reads in one process, as most of them import torch.
COMMANDS = """
import json, shlex, sys
from typer.testing import CliRunner
from pipeline.app.cli import app
for line in sys.stdin:
    done = CliRunner().invoke(app, shlex.split(line))
    print(json.dumps([done.exit_code, done.stdout, done.output]), flush=True)
"""


class Extended:
    """A copy of the code with the examples, and a process that runs its commands in a folder."""

    def __init__(self, code: Path, folder: Path, gallery: str) -> None:
        self.code, self.folder, self.gallery = code, folder, gallery
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(code)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def pipeline(self, arguments: str) -> dict[str, Any]:
        """Run a command and return its report."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        shown = arguments.replace("http://127.0.0.1:8000", self.gallery)
        print(shown, "--json", file=self.process.stdin, flush=True)
        code, output, errors = json.loads(self.process.stdout.readline())
        assert code == 0, errors
        report: dict[str, Any] = json.loads(output.splitlines()[-1])
        return report


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a list of images and the images."""
    folder = tmp_path_factory.mktemp("gallery")
    entries = []
    for number, (caption, colour) in enumerate(COLOURS.items()):
        data = io.BytesIO()
        Image.new("RGB", (64, 64), colour).save(data, "PNG")
        (folder / f"{number}.png").write_bytes(data.getvalue())
        entries.append({"url": f"{number}.png", "caption": caption})
    (folder / "list.json").write_text(json.dumps(entries))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, gallery: str) -> Iterator[Extended]:
    """The copy, with the gallery scraped and its images kept."""
    code, folder = tmp_path_factory.mktemp("code"), tmp_path_factory.mktemp("work")
    for package in ("pipeline", "scrapers"):
        shutil.copytree(ROOT / package, code / package)
    (code / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "test_imports.py", code / "tests")
    apply_page(code)
    palette = "".join(f"{red} {green} {blue}\n" for red, green, blue in COLOURS.values())
    (folder / "palette.txt").write_text(palette)
    made = Extended(code, folder, gallery)
    with made.process:
        made.pipeline(shown_command("scrape"))
        made.pipeline(shown_command("dedupe"))
        yield made


def test_the_source_yields_each_image_with_its_caption(extended: Extended) -> None:
    rows = pq.read_table(extended.folder / "data" / "gallery" / "dedupe" / "kept").to_pylist()
    found = {row["caption"]: (row["mean_red"], row["mean_green"], row["mean_blue"]) for row in rows}
    assert found == COLOURS


def test_the_codec_encodes_from_its_file_and_decodes(extended: Extended) -> None:
    report = extended.pipeline(shown_command("encode"))
    assert report["counts"]["encoded"] == 3
    table = pq.read_table(Path(extended.folder, report["outputs"][0]) / "00000.parquet")
    assert sorted(table["codes"].to_pylist()) == [[number] * 64 for number in range(3)]
    checked = extended.pipeline(shown_command("verify"))
    assert checked["outcome"] == "done"


def test_the_stage_runs_once_and_is_known_to_the_other_commands(extended: Extended) -> None:
    command = shown_command("count-words")
    report = extended.pipeline(command)
    assert report["counts"] == {"words": 6, "kept": 5, "short": 1}
    words = json.loads((extended.folder / "data/gallery/words/words.json").read_text())
    assert words == {"red": 1, "blue": 1, "green": 1, "one": 1, "square": 2}
    assert extended.pipeline(command)["outcome"] == "unchanged"
    extended.pipeline(shown_command("run"))
    extended.pipeline(shown_command("status"))
    assert extended.pipeline(shown_command("verify"))["outcome"] == "done"


def test_a_damaged_file_of_the_stage_is_repaired(extended: Extended) -> None:
    extended.pipeline(shown_command("count-words"))
    words = extended.folder / "data/gallery/words/words.json"
    whole = words.read_bytes()
    words.write_bytes(whole.replace(b"square", b"circle"))
    extended.pipeline("verify --repair --workspace data/gallery")
    assert not words.exists()
    extended.pipeline(shown_command("count-words"))
    assert words.read_bytes() == whole


def test_the_layers_still_hold(extended: Extended) -> None:
    done = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-q"), "-k", "lower_layers", "tests/test_imports.py"],
        cwd=extended.code,
        env={**os.environ, "PYTHONPATH": str(extended.code)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]
