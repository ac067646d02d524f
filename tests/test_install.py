"""The wheel in an empty environment: without extras, without a checkout, with an empty home."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
CAPTIONS = 3
PYTHONS = ("3.11", "3.12", "3.13")
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a program without anything of this checkout on its path."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    environment |= more.pop("env", {})
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, **more
    )


def find_python(version: str) -> str | None:
    """An interpreter of this version that runs: this one, on the path, or pyenv's."""
    if version == THIS:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python3"))]
    runs = (str(each) for each in found if each)
    return next((each for each in runs if run(each, "-c", "import venv").returncode == 0), None)


def install(folder: Path, python: str, *wanted: str | Path) -> subprocess.CompletedProcess[str]:
    """Install into a new environment, by this pip and without compiling the modules that nothing imports."""
    assert run(python, "-m", "venv", "--without-pip", folder).returncode == 0
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin/python", "install", "-q")
    return run(*pip, "--no-compile", "--only-binary", ":all:", *wanted)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout; skipped if its build backend can't be had."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip"]
    if run(*pip, "download", "-q", "--no-deps", "-d", folder / "x", "hatchling>=1.26").returncode:
        pytest.skip("no package index can be reached")
    built = run(*pip, "wheel", "-q", "--no-deps", "-w", folder, ROOT)
    assert built.returncode == 0, built.stderr
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module", params=PYTHONS)
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`pipeline` of an environment that has the wheel and what it requires."""
    python = find_python(request.param)
    if python is None:
        pytest.skip(f"there is no Python {request.param}")
    folder = tmp_path_factory.mktemp("environment")
    done = install(folder, python, wheel)
    if request.param != THIS and "No matching distribution found" in done.stderr:
        pytest.skip(f"the index has no packages for Python {request.param}")
    assert done.returncode == 0, done.stderr
    return folder / "bin/pipeline"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user whose home is empty."""
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home")}


@pytest.fixture
def server(installed: Path, home: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The URL of the mock server of the installed package."""
    command = [str(installed), "replica", "--port", "0", "--json"]
    environment = {**os.environ, **home}
    environment.pop("PYTHONPATH", None)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield str(json.loads(process.stdout.readline())["address"]).rstrip("/")
        finally:
            process.terminate()


def test_the_core_scrapes_and_dedupes_and_names_the_extra_for_the_rest(
    installed: Path, home: dict[str, str], server: str, tmp_path: Path
) -> None:
    def pipeline(*words: str) -> subprocess.CompletedProcess[str]:
        done = run(installed, *words, cwd=tmp_path, env=home)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def counts_of(*words: str) -> Any:
        done = pipeline(*words, "--workspace", "data/try", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["counts"]

    assert "Usage: pipeline" in pipeline("--help").stdout
    page = ("--page-url", f"{server}/blog/dall-e/", "--sections", "emojis")
    scraped = counts_of("scrape", "dalleblog", *page, "--limit", str(CAPTIONS))
    assert scraped["done"] == 32 * CAPTIONS
    assert counts_of("dedupe", "--val-fraction", "0")["kept"] == 32 * CAPTIONS
    without = pipeline("train-codec", "--workspace", "data/try")
    assert without.returncode == 1
    assert "pip install 'dalle-pipeline[train]'" in without.stderr


def test_the_doctor_of_the_wheel_knows_what_is_tested_and_what_is_missing(
    installed: Path, home: dict[str, str], tmp_path: Path
) -> None:
    done = run(installed, "doctor", "--host", "localhost", "--json", cwd=tmp_path, env=home)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    checks = {check["name"]: check for check in report["details"]["checks"]}
    assert len(checks) == len(report["details"]["checks"])
    assert {each["state"] for each in checks.values() if each["needed"]} == {"ok", "missing"}
    assert (checks["torch"]["state"], checks["torch"]["facts"]["extra"]) == ("missing", "train")
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"aiohttp=={checks['aiohttp']['facts']['tested']}" in pins
    assert checks["aiohttp"]["state"] == "ok"


@pytest.mark.timeout(1800)
def test_the_demo_runs_from_the_wheel_in_an_empty_home(
    wheel: Path, home: dict[str, str], tmp_path: Path
) -> None:
    """With few images and steps: mock server, presets, every stage, with only the wheel installed."""
    environment = tmp_path / "environment"
    done = install(environment, sys.executable, f"{wheel}[train]", "torch==2.13.0")
    if "No matching distribution found" in done.stderr:
        pytest.skip("the index has no torch for this machine")
    assert done.returncode == 0, done.stderr
    short = {
        "PIPELINE_SCRAPE_LIMIT": "8",
        "PIPELINE_TRAIN_CODEC_STEPS": "3",
        "PIPELINE_TRAIN_CODEC_MAX_IMAGES": "64",
        "PIPELINE_TRAIN_STEPS": "3",
        "PIPELINE_GENERATE_NUM_IMAGES": "1",
    }
    demo = run(environment / "bin/pipeline", "demo", cwd=tmp_path, env=home | short)
    assert demo.returncode == 0, demo.stderr
    page, draw = demo.stdout.splitlines()[-2:]
    assert page == f"Open the report: {tmp_path / 'data/demo/report.html'}"
    assert (tmp_path / "data/demo/report.html").exists()
    words = shlex.split(draw.removeprefix("Draw your own: "))
    assert run(*words, cwd=tmp_path, env=home).returncode == 0
    assert list((tmp_path / "data/demo/generated/mine").glob("0000-*.png"))


def test_a_python_that_is_too_old_is_refused_by_the_wheel_and_by_make(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        assert "Requires-Python: >=3.11\n" in archive.read(metadata).decode()
    old = tmp_path / "python3.9"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for python in (old, ""):
        done = run("make", "demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}", cwd=ROOT)
        assert done.returncode != 0
        assert "Python 3.11 or newer is needed; give it as PYTHON=…" in done.stdout
    assert not (tmp_path / "venv").exists()


def test_a_home_that_can_t_be_written_to_is_not_needed(
    installed: Path, server: str, tmp_path: Path
) -> None:
    page = ("--page-url", f"{server}/blog/dall-e/", "--sections", "emojis", "--limit", "1")
    for words in (("scrape", "dalleblog", *page), ("dedupe", "--val-fraction", "0")):
        done = run(
            installed, *words, "--workspace", "data/try", cwd=tmp_path, env={"HOME": "/dev/null"}
        )
        assert done.returncode == 0, done.stderr
