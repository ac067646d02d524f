"""The section "Code layout" of the README, made from the first lines of the packages' docstrings.

python docs/code_layout.py            prints it
python docs/code_layout.py --write    puts it into README.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Packages that are parts of one thing, and folders without a package.
HIDDEN = {"shapes", "image_files"}
BESIDE = {
    "dags/": "Airflow DAGs that run the commands above",
    "examples/": "short starting points that run as they are",
    "notebooks/": "the pipeline in a browser, on Colab or a laptop",
    "bench/": "benchmarks against other programs",
    "tests/": "mirrors the tree",
    "docs/": "documentation",
}
_SECTION = re.compile(r"(## Code layout\n.*?```\n).*?(```)", re.DOTALL)


def layout() -> str:
    """The tree, a package a line."""
    lines = [line for top in ("scrapers", "pipeline") for line in _package(ROOT / top, 0)]
    lines += BESIDE.items()
    return "".join(f"{name:24s}{about}\n" for name, about in lines)


def _package(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    doc = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    yield f"{'  ' * depth}{folder.name}/", doc.splitlines()[0].rstrip(".")
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").exists() and inner.name not in HIDDEN:
            yield from _package(inner, depth + 1)


def with_layout(readme: str) -> str:
    """The README with the tree of today."""
    return _SECTION.sub(lambda found: f"{found[1]}{layout()}{found[2]}", readme, count=1)


if __name__ == "__main__":
    if "--write" in sys.argv:
        path = ROOT / "README.md"
        path.write_text(with_layout(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        sys.stdout.write(layout())
