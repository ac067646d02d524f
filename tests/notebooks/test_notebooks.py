"""The notebooks are those of their scripts, and were run before they were committed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
NAMES = ("dalleblog", "own_images")
MAX_BYTES = 500_000


@pytest.fixture(scope="module")
def convert() -> ModuleType:
    spec = importlib.util.spec_from_file_location("convert", NOTEBOOKS / "convert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name: str) -> Any:
    notebook = nbformat.read(  # type: ignore[no-untyped-call]
        NOTEBOOKS / f"{name}.ipynb", as_version=4
    )
    nbformat.validate(notebook)
    return notebook


def test_every_script_has_a_notebook(convert: ModuleType) -> None:
    assert tuple(path.stem for path in convert.scripts()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_has_the_cells_of_its_script(convert: ModuleType, name: str) -> None:
    made = convert.make_notebook((NOTEBOOKS / f"{name}.py").read_text())
    assert [(cell.cell_type, cell.source) for cell in read(name).cells] == [
        (cell.cell_type, cell.source) for cell in made.cells
    ]
    assert "python notebooks/convert.py --execute" in (NOTEBOOKS / "README.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_every_cell_was_run_and_shows_something_and_nothing_of_a_machine(name: str) -> None:
    code = [cell for cell in read(name).cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in code)
    shown = [output for cell in code for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    texts = [output.get("text", "") for output in shown]
    texts += [output.get("data", {}).get("text/plain", "") for output in shown]
    assert not re.findall(r"(?<![\w.])/(?:home|root|tmp|work|dev|usr)/\S*", "\n".join(texts))
    assert "\x1b" not in "".join(texts)
    images = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(images) >= 2
    assert (NOTEBOOKS / f"{name}.ipynb").stat().st_size < MAX_BYTES


def test_cells_are_read_as_editors_read_them(convert: ModuleType) -> None:
    script = "# %% [markdown]\n# # Title\n#\n# Text.\n\n# %%\nx = 1\n\n\n# %%\nx\n"
    assert list(convert.cells_of(script)) == [
        ("markdown", "# Title\n\nText."),
        ("code", "x = 1"),
        ("code", "x"),
    ]


def test_outputs_stay_with_cells_that_have_not_changed(convert: ModuleType) -> None:
    earlier = convert.make_notebook("# %%\nx = 1\n\n# %%\nx\n")
    for cell in earlier.cells:
        output = nbformat.v4.new_output("stream", text=f"of {cell.source}")  # type: ignore[no-untyped-call]
        cell.outputs = [output]
    notebook = convert.make_notebook("# %%\nx = 2\n\n# %%\nx\n")
    convert.keep_outputs(notebook, earlier)
    assert [[output.text for output in cell.outputs] for cell in notebook.cells] == [[], ["of x"]]
