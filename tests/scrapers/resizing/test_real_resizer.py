"""Sizes and pixels beside img2dataset's own class; skipped unless DALLE_IMG2DATASET_PYTHON is set."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from scrapers.resizing.image import resize_image
from scrapers.resizing.rule import ResizeMode, ResizeRule
from tests.scrapers.resizing.test_image import encode, photo

PYTHON = os.environ.get("DALLE_IMG2DATASET_PYTHON")
pytestmark = pytest.mark.skipif(PYTHON is None, reason="DALLE_IMG2DATASET_PYTHON is not set")

# Writes what the real class makes of NAME.png as `NAME.MODE.ENLARGE`; prints the widths and heights.
THEIRS = """
import io, json, sys
from pathlib import Path
from img2dataset.resizer import Resizer
sizes = {}
for mode in sys.argv[2:]:
    for enlarge in (False, True):
        resizer = Resizer(64, mode, not enlarge, encode_format="png", encode_quality=1)
        for path in sorted(Path(sys.argv[1]).glob("*.png")):
            data, width, height, _, _, error = resizer(io.BytesIO(path.read_bytes()))
            assert error is None, (path.name, error)
            out = path.with_suffix(f".{mode}.{enlarge}")
            out.write_bytes(data)
            sizes[out.name] = [width, height]
print(json.dumps(sizes))
"""
MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


def sides() -> list[tuple[int, int]]:
    rng = random.Random(0)
    chosen = [(64, 64), (65, 64), (64, 65), (63, 200), (129, 63), (128, 127), (400, 7), (200, 101)]
    return chosen + [(rng.randint(8, 300), rng.randint(8, 300)) for _ in range(40)]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images with what img2dataset makes of them, and the sizes in `sizes.json`."""
    folder = tmp_path_factory.mktemp("images")
    for width, height in sides():
        (folder / f"{width}x{height}.png").write_bytes(encode(photo(width, height), "PNG"))
    environment = {**os.environ, "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment.pop("PYTHONPATH", None)
    line = [str(PYTHON), "-c", THEIRS, str(folder), *MODES]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=True)
    (folder / "sizes.json").write_text(done.stdout.splitlines()[-1])
    return folder


@pytest.mark.parametrize("enlarge", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_sizes_and_pixels_are_those_of_img2dataset(
    theirs: Path, mode: ResizeMode, *, enlarge: bool
) -> None:
    rule = ResizeRule(size=64, mode=mode, enlarge=enlarge, format="png")
    sizes = json.loads((theirs / "sizes.json").read_text())
    for path in sorted(theirs.glob("*.png")):
        out = path.with_suffix(f".{mode}.{enlarge}")
        data = path.read_bytes()
        mine = Image.open(io.BytesIO(resize_image((rule, data)).body or data))
        other = Image.open(out)
        assert [*mine.size] == [*other.size] == sizes[out.name], out.name
        # Both average areas; a row or column may be apart where white begins.
        apart = np.abs(np.asarray(mine, float) - np.asarray(other, float))
        assert np.median(apart) <= 2, out.name
        assert apart.mean() <= 6, out.name
