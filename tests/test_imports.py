"""The layers: which package may import which, read from the source with `ast`."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.stages import STAGE_PACKAGES, all_stages

ROOT = Path(__file__).parents[1]
OURS = ("pipeline", "scrapers", "dags", "tests", "bench")

# From the lowest layer to the highest. Packages of one layer don't import each other.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"pipeline.core"}),
    frozenset({"pipeline.models", "pipeline.webdata"}),
    frozenset({"pipeline.data"}),
    frozenset(STAGE_PACKAGES),
    frozenset({"pipeline.verify"}),
    frozenset({"pipeline.app"}),
    frozenset({"pipeline.demo", "pipeline.dataset", "pipeline.serve"}),
    frozenset({"pipeline.__main__"}),
)
TORCH_HOMES = {
    "pipeline.models",
    "pipeline.encode",
    "pipeline.train",
    "pipeline.train_codec",
    "pipeline.generate",
    "pipeline.data",
    "pipeline.dataset",
    "pipeline.serve",
}


def modules() -> list[tuple[str, Path]]:
    """Every module of ours by its dotted name."""
    found = []
    for package in ("pipeline", "scrapers", "dags"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


@functools.cache
def imports_of(path: Path) -> frozenset[str]:
    """Dotted names that a module imports, wherever the import stands."""
    return frozenset(_find_imports(path))


def _find_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            assert node.module is not None
            yield node.module
            yield from (module_of(f"{node.module}.{alias.name}") for alias in node.names)


@functools.cache
def module_of(imported: str) -> str:
    """The module in a dotted name that may end in something of the module."""
    path = ROOT.joinpath(*imported.split("."))
    is_module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
    return imported if is_module else imported.rpartition(".")[0] or imported


def home_of(name: str) -> tuple[int, str] | None:
    """The layer, counted from 0, and the package of a module; None for `pipeline` itself."""
    for layer, packages in enumerate(LAYERS):
        for package in packages:
            if name == package or name.startswith(f"{package}."):
                return layer, package
    assert name == "pipeline", f"{name} is in no layer"
    return None


def forbidden(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    top = imported.split(".")[0]
    if top in ("tests", "bench"):
        return "nothing imports tests or benchmarks"
    if importer.startswith("dags"):
        return "dags import none of our code" if top in OURS else None
    if top not in ("pipeline", "scrapers"):
        return None
    mine, theirs = home_of(importer), home_of(imported)
    if mine is None:
        return None
    if theirs is None:
        return "`pipeline` itself stands above all others"
    if mine[1] == theirs[1]:
        return None
    if theirs[0] > mine[0]:
        return f"{mine[1]} imports {theirs[1]} of a higher layer"
    return f"{mine[1]} and {theirs[1]} don't know each other" if theirs[0] == mine[0] else None


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value))
def test_a_module_imports_only_lower_layers(name: str, path: Path) -> None:
    broken = {imported: why for imported in imports_of(path) if (why := forbidden(name, imported))}
    assert not broken


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("pipeline.core.storage", "pipeline.dedupe.run"),
        ("pipeline.dedupe.run", "scrapers.rawstore.ledger"),
        ("pipeline.models.dalle.model", "pipeline.webdata.reader"),
        ("pipeline.train.run", "pipeline.generate.run"),
        ("dags.refresh", "pipeline.core.storage"),
        ("pipeline.dedupe.run", "tests.conftest"),
        ("scrapers.fetch.opening", "pipeline"),
    ],
)
def test_the_rules_catch_what_they_should(importer: str, imported: str) -> None:
    assert forbidden(importer, imported)


# Names of stages and contracts that may be compared with: the options of workspaces that were written before
# they were remembered, and the extra `train`.
_NAMED = {("remembered", "scrape"), ("packages", "train")}


def test_a_stage_has_no_special_case_outside_of_its_package() -> None:
    stages = all_stages().values()
    names = {stage.name for stage in stages} | {stage.contract_name for stage in stages} - {None}
    found = {
        (path.stem, str(constant.value))
        for top in ("pipeline/app", "pipeline/core", "pipeline/verify")
        for path in (ROOT / top).rglob("*.py")
        for compare in ast.walk(ast.parse(path.read_text()))
        if isinstance(compare, ast.Compare)
        for constant in ast.walk(compare)
        if isinstance(constant, ast.Constant) and constant.value in names
    }
    assert found == _NAMED


def test_torch_is_imported_by_few_packages() -> None:
    homes = {
        name
        for name, path in modules()
        if any(i.split(".")[0] == "torch" for i in imports_of(path))
    }
    assert homes
    assert {package for _, package in filter(None, map(home_of, homes))} <= TORCH_HOMES


def test_aiohttp_client_is_imported_by_one_fetcher_and_the_resolvers_alone() -> None:
    users = set()
    for name, path in modules():
        for imported in imports_of(path):
            server_only = imported.startswith("aiohttp.web") or imported == "aiohttp"
            serves = ".replica" in name or name.startswith("pipeline.serve.")
            if imported.split(".")[0] == "aiohttp" and not (server_only and serves):
                users.add(name)
    assert users == {
        "scrapers.fetch.session",
        "scrapers.fetch.session_head",
        "scrapers.fetch.resolving",
        "scrapers.fetch.system_resolver",
    }


def test_scrapers_need_neither_torch_nor_pandas() -> None:
    tops = {
        (name, imported.split(".")[0])
        for name, path in modules()
        if name.startswith("scrapers")
        for imported in imports_of(path)
    }
    assert {pair for pair in tops if pair[1] in ("torch", "pandas")} == set()


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys, pipeline.app.cli\n"
        "heavy = {'torch', 'pandas', 'aiohttp', 'pyarrow', 'numpy', 'PIL', 'bs4', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
