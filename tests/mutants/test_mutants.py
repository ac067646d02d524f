"""The list of changes is true: each applies, names tests that are there, and none is there twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.mutants.run import (
    BEGIN,
    END,
    ROOT,
    Mutant,
    MutantError,
    choose,
    make_table,
    read_mutants,
    read_results,
    run_mutant,
    write_result,
    write_table,
)

MUTANTS = read_mutants()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.id)
def test_every_change_applies_and_names_tests_that_are_there(mutant: Mutant) -> None:
    text = (ROOT / mutant.file).read_text()
    assert mutant.apply(text) != text
    for test in mutant.tests:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file()


def test_ids_and_changes_are_there_once() -> None:
    assert max(Counter(mutant.id for mutant in MUTANTS).values()) == 1
    assert max(Counter((m.file, m.before, m.after) for m in MUTANTS).values()) == 1


def test_every_package_has_some() -> None:
    counts = Counter(mutant.package for mutant in MUTANTS if not mutant.equivalent)
    packages = {
        f"{top}.{path.name}"
        for top in ("pipeline", "scrapers")
        for path in (ROOT / top).iterdir()
        if (path / "__init__.py").exists()
    }
    assert {name for name in packages if counts[name] < 4} == set()


# --- The runner ----------------------------------------------------------------------------------

MUTANT = Mutant(
    id="x/less",
    file="pipeline/x/limits.py",
    before="n < 3",
    after="n <= 3",
    tests=("tests/test_limits.py",),
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A package with a function, and a test of it."""
    tree = tmp_path / "tree"
    (tree / "pipeline/x").mkdir(parents=True)
    (tree / "tests").mkdir()
    for folder in ("pipeline", "pipeline/x"):
        (tree / folder / "__init__.py").write_text("")
    (tree / "pipeline/x/limits.py").write_text("def few(n):\n    return n < 3\n")
    return tree


def write_test(tree: Path, number: int) -> None:
    text = f"from pipeline.x.limits import few\n\n\ndef test():\n    assert few({number}) == ({number} < 3)\n"
    (tree / "tests/test_limits.py").write_text(text)


@pytest.mark.parametrize(("number", "outcome"), [(2, "survived"), (3, "killed")])
def test_a_change_is_killed_by_a_test_that_fails_with_it(
    number: int, outcome: str, tree: Path
) -> None:
    write_test(tree, number)
    assert run_mutant(MUTANT, tree) == outcome
    assert (tree / MUTANT.file).read_text() == "def few(n):\n    return n < 3\n"


def test_tests_that_can_not_be_run_are_an_error_and_no_kill(tree: Path) -> None:
    with pytest.raises(MutantError, match="x/less: pytest can't run its tests"):
        run_mutant(MUTANT, tree)


@pytest.mark.parametrize("text", ["", "n < 3 n < 3"])
def test_a_change_that_is_not_there_exactly_once_is_an_error(text: str) -> None:
    with pytest.raises(MutantError, match="expected 1"):
        MUTANT.apply(text)


def test_a_result_counts_as_long_as_code_and_tests_are_the_same(tree: Path, tmp_path: Path) -> None:
    write_test(tree, 3)
    key, results = MUTANT.key(tree), tmp_path / "results.jsonl"
    assert read_results(results) == {}
    write_result(MUTANT.id, key, "killed", results)
    assert read_results(results) == {key: "killed"}
    write_test(tree, 2)
    assert MUTANT.key(tree) not in read_results(results)
    write_test(tree, 3)
    assert MUTANT.key(tree) in read_results(results)
    (tree / MUTANT.file).write_text("def few(n):\n    return n < 3  # three\n")
    assert MUTANT.key(tree) not in read_results(results)


def test_a_seed_chooses_the_same_sample() -> None:
    first = choose(MUTANTS, package=None, sample=20, seed=1)
    assert len({mutant.id for mutant in first}) == 20
    assert choose(MUTANTS, package=None, sample=20, seed=1) == first
    assert choose(MUTANTS, package=None, sample=20, seed=2) != first
    assert {m.package for m in choose(MUTANTS, package="pipeline.train", sample=None, seed=0)} == {
        "pipeline.train"
    }
    assert not any(m.equivalent for m in choose(MUTANTS, package=None, sample=None, seed=0))


def test_the_table_counts_by_package_and_takes_its_place(tmp_path: Path) -> None:
    mutants = [
        Mutant(id=name, file=file, before="", after="", tests=(), equivalent=why)
        for name, file, why in (
            ("a", "pipeline/x/y.py", ""),
            ("b", "pipeline/x/z.py", ""),
            ("c", "scrapers/source.py", ""),
            ("d", "pipeline/x/y.py", "because"),
        )
    ]
    table = make_table(mutants, {"a": "killed", "b": "survived", "c": "timeout"})
    assert table.splitlines()[2:] == [
        "| pipeline.x | 1 | 1 | 1 |",
        "| scrapers | 1 | 0 | 0 |",
        "| all | 2 | 1 | 1 |",
    ]
    docs = tmp_path / "testing.md"
    docs.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n")
    write_table(table, docs)
    assert docs.read_text() == f"head\n{BEGIN}\n\n{table}\n\n{END}\ntail\n"
