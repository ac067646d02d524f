"""Make the notebooks of this folder from their scripts: `python notebooks/convert.py [--execute]`.

A script has cells that begin with `# %%` (code) or `# %% [markdown]` (text in comments), as editors and
jupytext know them. A notebook has the cells of its script and their outputs: of cells that have not changed
those that it had, and with `--execute` those of running it now.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FOLDER = Path(__file__).parent
_MARK = re.compile(r"^# %%(?P<kind> \[markdown\])?\n", re.MULTILINE)
_METADATA = {
    "accelerator": "GPU",
    "colab": {"provenance": []},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
_CELL_TIMEOUT_S = 3600


def scripts() -> list[Path]:
    """The scripts that notebooks are made from."""
    return sorted(path for path in FOLDER.glob("*.py") if path.name != Path(__file__).name)


def cells_of(script: str) -> Iterator[tuple[str, str]]:
    """The kind ("code" or "markdown") and the text of each cell of a script."""
    marks = list(_MARK.finditer(script))
    ends = [mark.start() for mark in marks[1:]] + [len(script)]
    for mark, end in zip(marks, ends, strict=True):
        text = script[mark.end() : end].strip("\n")
        if mark["kind"]:
            yield "markdown", re.sub(r"^# ?", "", text, flags=re.MULTILINE)
        else:
            yield "code", text


def make_notebook(script: str) -> Any:
    """The notebook of a script, without outputs."""
    made = []
    for number, (kind, text) in enumerate(cells_of(script)):
        make = new_markdown_cell if kind == "markdown" else new_code_cell
        made.append(make(text, id=f"cell-{number:02d}"))
    return new_notebook(cells=made, metadata=_METADATA)


def keep_outputs(notebook: Any, earlier: Any) -> None:
    """Give the cells the outputs of the cells of an earlier version that have the same text."""
    before = {cell.source: cell for cell in earlier.cells if cell.cell_type == "code"}
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source in before:
            cell.outputs = before[cell.source].outputs
            cell.execution_count = before[cell.source].execution_count


def execute(notebook: Any) -> None:
    """Run the notebook in an empty folder."""
    from nbclient import NotebookClient

    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook, timeout=_CELL_TIMEOUT_S, resources={"metadata": {"path": folder}}
        ).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":
            cell.outputs = list(_joined(cell.outputs))


def _joined(outputs: list[Any]) -> Iterator[Any]:
    """The outputs with neighbouring pieces of the same stream joined."""
    last: Any = None
    for output in outputs:
        if last and output.output_type == last.output_type == "stream" and output.name == last.name:
            last.text += output.text
            continue
        last = output
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)  # the same image again
        yield output


def main(arguments: list[str]) -> None:
    """Write every notebook."""
    for script in scripts():
        notebook, path = make_notebook(script.read_text()), script.with_suffix(".ipynb")
        if "--execute" in arguments:
            execute(notebook)
        elif path.exists():
            keep_outputs(notebook, nbformat.read(path, as_version=4))
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main(sys.argv[1:])
