"""The house's floors: who may import whom, read from the source with `ast`."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("pipeline", "scrapers", "dags", "tests", "bench")

GROUND = {
    "pipeline.core.errors",
    "pipeline.core.parsing",
    "pipeline.core.plain_text",
    "pipeline.regular_files",
    "pipeline.core.suggestions",
    "pipeline.core.contracts",
    "pipeline.core.config",
    "pipeline.core.progress",
    "pipeline",
}
SECOND = {
    "pipeline.core.storage",
    "pipeline.core.stop_signals",
    "pipeline.core.ownership",
    "pipeline.core.locks",
    "pipeline.core.remembered",
    "pipeline.core.option_values",
    "pipeline.core.outputs",
    "pipeline.core.uses",
    "pipeline.core.workspace",
    "pipeline.core.engine",
    "pipeline.core.inventory",
    "pipeline.core.image_files",
    "pipeline.core.image_decode",
    "pipeline.core.integrity",
    "pipeline.core.kept_images",
    "pipeline.core.cache",
    "pipeline.core.text_files",
}
SHARED = {"pipeline.models", "pipeline.webdata"}
STAGES = {
    "scrapers",
    "pipeline.dedupe",
    "pipeline.train_tokenizer",
    "pipeline.train_codec",
    "pipeline.encode",
    "pipeline.shard",
    "pipeline.train",
    "pipeline.generate",
    "pipeline.report",
}
TORCH_HOMES = {
    "pipeline.models",
    "pipeline.encode",
    "pipeline.train",
    "pipeline.train_codec",
    "pipeline.generate",
}


def modules() -> list[tuple[str, Path]]:
    """Every module of ours by its dotted name."""
    found = []
    for package in ("pipeline", "scrapers", "dags"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(part for part in parts if part != "__init__"), path))
    return found


def imports_of(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the floor"
            assert node.module is not None
            yield node.module
            yield from (module_of(f"{node.module}.{alias.name}") for alias in node.names)


def module_of(imported: str) -> str:
    """The module in a dotted name that may end in something of the module."""
    path = ROOT.joinpath(*imported.split("."))
    is_module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
    return imported if is_module else imported.rpartition(".")[0] or imported


def within(name: str, rooms: set[str]) -> str | None:
    """The room of `rooms` that the module belongs to."""
    return next(
        (r for r in rooms if r != "pipeline" and (name == r or name.startswith(f"{r}."))), None
    )


def floor(name: str) -> int:
    if name in GROUND:
        return 1
    if within(name, SECOND):
        return 2
    if within(name, SHARED):
        return 3
    if within(name, STAGES):
        return 4
    return 5


def forbidden(importer: str, imported: str) -> str | None:
    """Why `importer` may not import `imported`, or None."""
    top = imported.split(".")[0]
    if top in ("tests", "bench"):
        return "nothing imports tests or benchmarks"
    if importer.startswith("dags"):
        return "dags import none of our code" if top in OURS else None
    if top not in ("pipeline", "scrapers"):
        return None
    mine, theirs = floor(importer), floor(imported)
    if theirs > mine:
        return f"floor {mine} imports floor {theirs}"
    if mine in (1, 2) and theirs == mine and not (imported in GROUND or within(imported, SECOND)):
        return "not a room"
    for rooms in (SHARED, STAGES):
        home, other = within(importer, rooms), within(imported, rooms)
        if home and other and home != other:
            return f"{home} and {other} don't know each other"
    return None


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda value: str(value))
def test_a_module_imports_only_floors_below(name: str, path: Path) -> None:
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
        ("pipeline.core.errors", "pipeline.core.storage"),
        ("pipeline.dedupe.run", "tests.conftest"),
    ],
)
def test_the_rules_catch_what_they_should(importer: str, imported: str) -> None:
    assert forbidden(importer, imported)


def test_torch_lives_only_in_its_rooms() -> None:
    homes = {
        name
        for name, path in modules()
        if any(i.split(".")[0] == "torch" for i in imports_of(path))
    }
    assert homes
    assert {name for name in homes if not within(name, TORCH_HOMES)} == set()


def test_aiohttp_client_is_imported_by_one_fetcher_and_the_resolvers_alone() -> None:
    users = set()
    for name, path in modules():
        for imported in imports_of(path):
            server_only = imported.startswith("aiohttp.web") or imported == "aiohttp"
            if imported.split(".")[0] == "aiohttp" and not (server_only and ".replica" in name):
                users.add(name)
    assert users == {
        "scrapers.fetch.session",
        "scrapers.fetch.session_head",
        "scrapers.fetch.resolving",
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
