"""Messages about missing packages name the extra that installs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from pipeline.core.extras import EXTRA_OF, STORES, how_to_install, missing_package, missing_store
from pipeline.core.image_decode.pillow import PLUGINS

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DISTRIBUTIONS = {"yaml": "pyyaml", "pillow_heif": "pillow-heif", "pillow_jxl": "pillow-jxl-plugin"}


def test_an_extra_installs_each_of_its_packages() -> None:
    for module, extra in EXTRA_OF.items():
        named = [
            re.split(r"[<>=\[; ]", each)[0] for each in PROJECT["optional-dependencies"][extra]
        ]
        assert DISTRIBUTIONS.get(module, module) in named
    assert all(EXTRA_OF[module] == extra for module, extra in PLUGINS.values())
    assert set(STORES.values()) <= EXTRA_OF.keys()


def test_a_missing_package_names_its_extra() -> None:
    assert str(missing_package("Scoring", "transformers")) == (
        "Scoring needs the package 'transformers', which is not installed. "
        "Install it with: pip install 'dalle-pipeline[clip]'."
    )
    assert "dalle-pipeline[gcs]" in str(missing_store("gs://bucket/x", ImportError("no gcsfs")))
    assert "no adlfs" in str(missing_store("abfs://bucket/x", ImportError("no adlfs")))


def test_a_package_of_every_install_is_to_be_repaired() -> None:
    assert "pip install --force-reinstall" in how_to_install("aiohttp.client")
    assert "pipeline doctor" in how_to_install("typer")


def test_a_half_installed_environment_is_explained(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['typer'] = None\n")
    path = f"{tmp_path}:{ROOT}"
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--help"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Every command needs the package 'typer'")
    assert "Traceback" not in done.stderr
