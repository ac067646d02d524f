"""The version, which two files state."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pipeline.core.version import __version__

ROOT = Path(__file__).parents[2]


def test_the_package_and_its_metadata_have_the_same_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
