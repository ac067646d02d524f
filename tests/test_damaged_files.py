"""Files that were edited by hand or damaged: every command ends in a sentence, none in a crash.

Each file of a small whole workspace is damaged in many ways, and each command is given. It may heal what
is damaged, go on without it, or say what is wrong; it may not die of it.
"""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.mutations import byte_changes, json_changes, remove
from tests.helpers.whole_workspace import Whole, whole

__all__ = ["whole"]

JSON_FILES = (
    "workspace.json",
    "raw/manifest.json",
    "raw/page.json",
    "raw/sections.json",
    "dedupe/manifest.json",
    "tokenizers/bpe/manifest.json",
    "codecs/small/manifest.json",
    "codes/*/manifest.json",
    "shards/default/manifest.json",
    "shards/default/index.json",
    "runs/dalle/manifest.json",
    "runs/dalle/plan.json",
    "generated/default/manifest.json",
)
LINE_FILES = (
    "runs.jsonl",
    "codecs/small/log.jsonl",
    "runs/dalle/log.jsonl",
    "generated/default/records.jsonl",
)
OTHER_FILES = (
    "raw/ledger.sqlite",
    "raw/page.html",
    "raw/segments/00000.tar",
    "dedupe/kept/00000.parquet",
    "dedupe/rejected/00000.parquet",
    "dedupe/captions.parquet",
    "dedupe/inspections.parquet",
    "codes/*/00000.parquet",
    "shards/default/left_out.parquet",
    "shards/default/train/000000.tar",
    "shards/default/train/000000.idx.npy",
    "shards/default/tokenizer.json",
    "tokenizers/bpe/tokenizer.json",
    "generated/default/0000-00.png",
    "report.html",
)
LOOKING = (("status",), ("verify",), ("report",), ("run", "--dry-run"))
WORKING = (
    ("scrape",),
    ("scrape", "--export", "{folder}/out.parquet"),
    ("dedupe",),
    ("train-tokenizer",),
    ("train-codec",),
    ("encode",),
    ("shard",),
    ("train",),
    ("generate",),
    ("run",),
)


def problem(result: Any) -> str | None:
    """What is wrong with the end of a command; None for an end in a sentence."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if "unexpected error" in result.output or "Traceback" in result.output:
        return f"said {result.output[-400:]!r}"
    if result.exit_code not in (0, 1, 2, 3):
        return f"ended with {result.exit_code}"
    says_why = "Error" in result.output or "there is damage" in result.output
    if result.exit_code in (1, 2) and not says_why:
        return f"ended with {result.exit_code} and no sentence: {result.output!r}"
    return None


def find(root: Path, pattern: str) -> Path:
    (path,) = root.glob(pattern)
    return path


def all_changes(path: Path, rng: random.Random) -> Iterator[tuple[str, Any]]:
    """Every way to damage this file."""
    yield from byte_changes(rng)
    if path.suffix == ".json" and path.name != "tokenizer.json":
        for name, text in json_changes(path.read_text()):
            yield name, lambda path, text=text: path.write_text(text)
    if path.suffix == ".jsonl":
        first, *rest = path.read_text().splitlines(keepends=True)
        for name, text in json_changes(first):
            yield name, lambda path, text=text: path.write_text(text + "\n" + "".join(rest))


def try_changes(
    whole: Whole, folder: Path, pattern: str, *, number: int | None, kinds: Any, seed: int = 0
) -> list[str]:
    """Damage a file in `number` ways (None: all), and give a command of each of `kinds`, another each time.

    Returns what went wrong.
    """
    rng = random.Random(f"{pattern} {seed}")
    changes = list(all_changes(find(whole.root, pattern), rng))
    chosen = changes if number is None else rng.sample(changes, min(number, len(changes)))
    orders = [itertools.cycle(rng.sample(kind, len(kind))) for kind in kinds]
    problems = []
    for name, change in chosen:
        for command in map(next, orders):
            copy = whole.copy(folder / "data")
            change(find(copy.root, pattern))
            result = copy.call(*(word.format(folder=folder) for word in command))
            if found := problem(result):
                problems.append(f"{pattern}: {name}: {' '.join(command)}: {found}")
            remove(copy.root)
    return problems


@pytest.mark.parametrize("pattern", [*JSON_FILES, *LINE_FILES, *OTHER_FILES])
def test_a_damaged_file_is_a_sentence(whole: Whole, tmp_path: Path, pattern: str) -> None:
    assert try_changes(whole, tmp_path, pattern, number=3, kinds=(LOOKING, WORKING)) == []


# DAMAGE=all tries every kind of damage to every file, which takes hours.
ALL = os.environ.get("DAMAGE") == "all"


@pytest.mark.slow
@pytest.mark.timeout(7200 if ALL else 900)
@pytest.mark.parametrize("pattern", [*JSON_FILES, *LINE_FILES, *OTHER_FILES])
def test_every_kind_of_damage_is_a_sentence(whole: Whole, tmp_path: Path, pattern: str) -> None:
    number, each = (None if ALL else 1), [[command] for command in (*LOOKING, *WORKING)]
    assert try_changes(whole, tmp_path, pattern, number=number, kinds=each, seed=1) == []
