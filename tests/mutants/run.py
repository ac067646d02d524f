"""Whether the tests notice small changes of meaning: applies each change of `mutants.toml` to a copy of the
tree, runs the tests named for it, and counts which changes no test noticed.

Results go to `build/mutants.jsonl`. A result counts as long as the changed file, the change and its tests are
the same, so a run that was stopped goes on where it was. The table by package goes to docs/testing.md.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import hashlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[2]
LIST = Path(__file__).with_name("mutants.toml")
RESULTS = ROOT / "build" / "mutants.jsonl"
DOCS = ROOT / "docs" / "testing.md"
COPIED = ("pipeline", "scrapers", "tests", "docs", "dags", "pyproject.toml", "README.md")
TIMEOUT_S = 240.0
BEGIN, END = "<!-- mutants: begin -->", "<!-- mutants: end -->"

Outcome = Literal["killed", "survived", "timeout"]


class MutantError(Exception):
    """A mutant that can't be applied or run: the list must be mended."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A change of `before` to `after` in `file`, and the tests (files or test ids) that should notice it.

    `equivalent` says why no test can, where none can.
    """

    id: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    equivalent: str = ""

    @property
    def package(self) -> str:
        """The package of the file, as `pipeline.train`."""
        parts = Path(self.file).parts
        return ".".join(parts[:2]) if len(parts) > 2 else parts[0]

    def apply(self, text: str) -> str:
        """The changed text of the file; raises MutantError unless `before` is in it exactly once."""
        found = text.count(self.before)
        if found != 1:
            raise MutantError(
                f"{self.id}: {found} times {self.before!r} in {self.file}, expected 1."
            )
        return text.replace(self.before, self.after)

    def key(self, root: Path) -> str:
        """A hash of all that its outcome depends on directly: the change, the file and the tests."""
        files = [self.file, *(test.partition("::")[0] for test in self.tests)]
        texts = [(root / file).read_text() for file in files]
        values = [self.before, self.after, self.tests, texts]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def read_mutants(file: Path = LIST) -> list[Mutant]:
    """All mutants of the list."""
    entries = tomllib.loads(file.read_text())["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def choose(
    mutants: Sequence[Mutant], *, package: str | None, sample: int | None, seed: int
) -> list[Mutant]:
    """The mutants of a package, or of all, without the equivalent ones; `sample` of them by the seed."""
    chosen = [m for m in mutants if not m.equivalent and package in (None, m.package)]
    if sample is not None and sample < len(chosen):
        chosen = random.Random(seed).sample(chosen, sample)
    return chosen


# --- Running -------------------------------------------------------------------------------------


@contextlib.contextmanager
def copied_tree(root: Path) -> Iterator[Path]:
    """A copy of the parts of the tree that tests need, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder) / "tree"
        for name in COPIED:
            source, ignored = root / name, shutil.ignore_patterns("__pycache__")
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=ignored)
            else:
                tree.mkdir(exist_ok=True)
                shutil.copy(source, tree / name)
        yield tree


def run_mutant(mutant: Mutant, tree: Path) -> Outcome:
    """Apply a mutant to `tree`, run its tests there, and undo it."""
    path = tree / mutant.file
    text = path.read_text()
    path.write_text(mutant.apply(text))
    try:
        code = run_tests(mutant.tests, tree)
    finally:
        path.write_text(text)
    if code is None:
        return "timeout"
    if code not in (0, 1):
        raise MutantError(f"{mutant.id}: pytest can't run its tests (status {code}).")
    return "killed" if code else "survived"


def run_tests(tests: Iterable[str], tree: Path) -> int | None:
    """The status of pytest on tests of `tree`; None where it took too long."""
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["--basetemp", str(tree.parent / "temporary"), *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_unchanged(mutants: Sequence[Mutant]) -> None:
    """Raise MutantError if a test fails on the tree as it is: it would seem to notice every change."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    for test in tests:
        with copied_tree(ROOT) as tree:
            if run_tests([test], tree) != 0:
                raise MutantError(f"{test} fails without any change.")


def run_all(mutants: Sequence[Mutant], *, jobs: int) -> dict[str, Outcome]:
    """The outcome of every mutant by id; those that are known already are not run again."""
    known, keys = read_results(), {mutant.id: mutant.key(ROOT) for mutant in mutants}
    outcomes = {name: known[key] for name, key in keys.items() if key in known}
    todo = [mutant for mutant in mutants if mutant.id not in outcomes]
    with contextlib.ExitStack() as stack:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for _ in range(min(jobs, len(todo))):
            trees.put(stack.enter_context(copied_tree(ROOT)))

        def run_one(mutant: Mutant) -> tuple[Mutant, Outcome]:
            tree = trees.get()
            try:
                return mutant, run_mutant(mutant, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            for number, (mutant, outcome) in enumerate(pool.map(run_one, todo), 1):
                write_result(mutant.id, keys[mutant.id], outcome)
                outcomes[mutant.id] = outcome
                print(f"{number}/{len(todo)} {outcome:<9}{mutant.id}", flush=True)
    return outcomes


# --- Results -------------------------------------------------------------------------------------


def read_results(file: Path = RESULTS) -> dict[str, Outcome]:
    """Known outcomes by key."""
    if not file.exists():
        return {}
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["key"]: row["outcome"] for row in rows}


def write_result(name: str, key: str, outcome: Outcome, file: Path = RESULTS) -> None:
    """Note an outcome."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as results:
        results.write(json.dumps({"key": key, "id": name, "outcome": outcome}) + "\n")


def make_table(mutants: Sequence[Mutant], outcomes: Mapping[str, Outcome]) -> str:
    """Killed and survived by package, in Markdown; a timeout counts as killed."""
    counts: dict[str, collections.Counter[str]] = {}
    for mutant in mutants:
        column = "equivalent" if mutant.equivalent else outcomes.get(mutant.id)
        if column is not None:
            counts.setdefault(mutant.package, collections.Counter())[column] += 1
    lines = ["| package | killed | survived | equivalent |", "|---|---:|---:|---:|"]
    total = sum(counts.values(), collections.Counter())
    for name, row in [*sorted(counts.items()), ("all", total)]:
        killed = row["killed"] + row["timeout"]
        lines.append(f"| {name} | {killed} | {row['survived']} | {row['equivalent']} |")
    return "\n".join(lines)


def write_table(table: str, docs: Path = DOCS) -> None:
    """Put the table in its place in the docs."""
    text = docs.read_text()
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    docs.write_text(f"{head}{BEGIN}\n\n{table}\n\n{END}{tail}")


def main() -> None:
    """Run what the arguments choose; status 1 where a mutant survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", help="only those of a package, as pipeline.train")
    parser.add_argument("--sample", type=int, help="only so many, chosen by --seed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="at the same time")
    parser.add_argument("--check", action="store_true", help="run their tests unchanged first")
    options = parser.parse_args()
    mutants = read_mutants()
    chosen = choose(mutants, package=options.package, sample=options.sample, seed=options.seed)
    if options.check:
        check_unchanged(chosen)
    outcomes = run_all(chosen, jobs=options.jobs)
    table = make_table(mutants, outcomes)
    print(table)
    if len(chosen) == len(choose(mutants, package=None, sample=None, seed=0)):
        write_table(table)
    survived = sorted(name for name, outcome in outcomes.items() if outcome == "survived")
    if survived:
        sys.exit(f"No test noticed: {', '.join(survived)}")


if __name__ == "__main__":
    main()
