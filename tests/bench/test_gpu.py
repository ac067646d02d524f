"""bench/gpu.py: every part runs in small on a CPU, and what a cut run has measured is kept."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import gpu
from bench.gpu import PARTS, Part, Place, measure_all, print_table, run_part

SMOKE = Place(device="cpu", smoke=True)


@pytest.mark.parametrize("name", [part.name for part in PARTS])
def test_a_part_measures_something(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run_part(name, SMOKE)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert lines
    for line in lines:
        assert any(isinstance(value, float) for value in json.loads(line).values()), line


CHILD = """
import sys, time
part = sys.argv[sys.argv.index("--part") + 1]
print("torch says something")
print('{"n": 1}', flush=True)
if part == "hangs":
    time.sleep(1000)
if part == "fails":
    raise RuntimeError("no such kernel")
print('{"n": 2, "more": 0.5}')
"""


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is in gpu.json after three made-up parts."""
    monkeypatch.setattr(gpu, "SCRIPT", tmp_path / "child.py")
    gpu.SCRIPT.write_text(CHILD)
    limits = {"hangs": 10, "fails": 100, "works": 100}
    parts = [Part(name=n, title=n, measure="", limit_s=limit) for n, limit in limits.items()]
    place = Place(device="cuda", smoke=False)
    returned = measure_all(parts, place, out=tmp_path / "gpu.json", seconds=100)
    written: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text())
    assert written == returned
    parts_of: dict[str, Any] = written["parts"]
    return parts_of


def test_parts_that_fail_or_hang_keep_their_rows_and_the_others_go_on(
    results: dict[str, Any],
) -> None:
    ends = {name: (part["ended"], part["rows"]) for name, part in results.items()}
    assert ends == {
        "hangs": ("cut after 10 s", [{"n": 1}]),
        "fails": ("failed: RuntimeError: no such kernel", [{"n": 1}]),
        "works": ("done", [{"n": 1}, {"n": 2, "more": 0.5}]),
    }


def test_nothing_starts_when_the_time_is_over(tmp_path: Path) -> None:
    place = Place(device="cuda", smoke=False)
    results = measure_all(PARTS, place, out=tmp_path / "gpu.json", seconds=0)
    assert {part["ended"] for part in results["parts"].values()} == {"no time left"}


def test_a_table_has_a_column_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"how": "eager", "tokens/s": 123456.7}, {"how": "compiled", "MFU": 0.4567}]
    print_table("Training", rows, "cut after 3 s")
    assert capsys.readouterr().out == (
        "\nTraining (cut after 3 s)\n"
        "  how       tokens/s    MFU\n"
        "  eager      123,457\n"
        "  compiled            0.457\n"
    )


BARE = """
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing!r}:
            raise ImportError(name + " is not there")
sys.meta_path.insert(0, Bare())
import bench.gpu_train
"""


def test_training_is_measured_with_torch_and_numpy_alone() -> None:
    """As on a machine with a CUDA image and a checkout of this package."""
    missing = [
        "pandas",
        "pyarrow",
        "kornia_rs",
        "webdataset",
        "safetensors",
        "tokenizers",
        "aiohttp",
    ]
    root = Path(gpu.__file__).parents[1]
    script = BARE.format(
        missing=[*missing, "typer", "rich", "PIL", "lxml", "fsspec", "dalle_pytorch"]
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
