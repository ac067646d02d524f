"""`verify` reports any damage and never crashes; it writes nothing and needs no write access."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.verify.check import check_workspace
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.raw_check import open_read_only
from tests.helpers.cli import run_command
from tests.verify.small_pipeline import Small

ROOT = Path(__file__).parents[2]
# DAMAGE=all damages every file in many ways.
SEEDS = 2000 if os.environ.get("DAMAGE") == "all" else 100

Change = Callable[[bytearray, random.Random], None]


def flip_bytes(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 4, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def zero_a_range(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    length = min(rng.randint(1, 512), len(data) - start)
    data[start : start + length] = bytes(length)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def insert_noise(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data) + 1)
    data[start:start] = rng.randbytes(rng.randint(1, 64))


def replace_all(data: bytearray, rng: random.Random) -> None:
    data[:] = rng.choice((b"", b"{}", b"[]", b"null", b"\0" * 300, b'{"files": 1}', b"PAR1"))


CHANGES: tuple[Change, ...] = (flip_bytes, flip_bytes, zero_a_range, cut, insert_noise, replace_all)


def damageable(root: Path) -> list[Path]:
    """Every file of the workspace but the page that shows it, and what no manifest describes."""
    no_promise = {"report.html", "runs.jsonl", "sections.json", "differences.json"}
    return [
        path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.name not in no_promise
        and not path.name.endswith(("-shm", "-wal"))
        and not path.relative_to(root).parts[0].startswith(".")
        and "tensorboard" not in path.parts
    ]


def content_of_ledger(path: Path) -> list[Any]:
    with open_read_only(path) as ledger:
        return [
            *ledger.query("SELECT key, url, section, caption, rank, state, sha256 FROM items"),
            *ledger.query("SELECT segment, offset, bytes FROM urls ORDER BY form, rank"),
        ]


def is_harmless(path: Path, before: bytes, rows: list[Any]) -> bool:
    """Whether a change has no meaning: white space in JSON, unused bytes of a ledger."""
    if path.name == "workspace.json":
        return True  # no hash of it is kept
    if path.suffix == ".json":
        try:
            found, expected = json.loads(path.read_bytes()), json.loads(before)
            if path.name == "page.json":  # with another URL in it, the page is asked for again
                found, expected = found["sha256"], expected["sha256"]
            return bool(found == expected)
        except (ValueError, KeyError, TypeError):
            return False
    if path.name == "ledger.sqlite":
        try:
            return content_of_ledger(path) == rows
        except Exception:
            return False
    return path.read_bytes() == before


def test_any_damage_is_named_and_verify_never_crashes(small: Small) -> None:
    files, rows = damageable(small.root), content_of_ledger(small.root / "raw/ledger.sqlite")
    assert 50 < len(files) < SEEDS
    unnamed = []
    for seed in range(SEEDS):
        rng = random.Random(seed)
        path, change = files[seed % len(files)], rng.choice(CHANGES)
        before = path.read_bytes()
        data = bytearray(before)
        change(data, rng)
        path.write_bytes(data)
        name = path.relative_to(small.root).as_posix()
        if name != "workspace.json":  # read before anything else
            found = [str(f) for c in check_workspace(small.root, 0) for f in c.faults]
            if not any(name in text for text in found) and not is_harmless(path, before, rows):
                unnamed.append((seed, name, change.__name__, found))
        path.write_bytes(before)
    assert unnamed == []


@pytest.mark.parametrize(
    "name", ["workspace.json", "codecs/small/codec.json", "dedupe/manifest.json"]
)
def test_the_command_ends_with_a_report_or_a_sentence(small: Small, name: str) -> None:
    path = small.root / name
    before = path.read_bytes()
    for seed in range(25):
        rng = random.Random(seed)
        data = bytearray(before)
        rng.choice(CHANGES)(data, rng)
        path.write_bytes(data)
        result = run_command(["verify", "--workspace", str(small.root), "--json"])
        report = json.loads(result.stdout.splitlines()[-1])
        assert result.exit_code in (0, 1), result.output
        assert "unexpected error" not in result.output, (seed, result.output)
        if report["outcome"] == "failed":
            assert name in report["error"]["message"], (seed, report)


AS_ANOTHER_USER = """
import os, sys
from pathlib import Path

from tests.helpers.cli import run_command

def verify(*options):
    return run_command(["verify", "--json", "--workspace", sys.argv[1], *options])

verify()  # what it imports may lie where only this user reads
for path in [Path(sys.argv[1]), *Path(sys.argv[1]).rglob("*")]:
    path.chmod(0o555 if path.is_dir() else 0o444)
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
assert not os.access(sys.argv[1], os.W_OK)
for options in ((), ("--repair",)):
    result = verify(*options)
    print(result.stdout.splitlines()[-1])
"""


@pytest.fixture
def shared() -> Iterator[Path]:
    """A new folder that other users may enter; pytest restricts its own ones whenever a session starts."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_it_works_on_a_read_only_workspace(small: Small, shared: Path) -> None:
    """As another user, with a ledger whose write-ahead log was never checkpointed."""
    small = small.copy(shared / "data")
    ledger = Ledger(small.root / "raw/ledger.sqlite")
    ledger.set_meta("note", "in the log")
    before = {p: p.stat().st_mtime_ns for p in small.root.rglob("*") if "raw" not in p.parts}
    try:
        done = subprocess.run(
            [sys.executable, "-c", AS_ANOTHER_USER, str(small.root)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found, repaired = map(json.loads, done.stdout.splitlines())
        assert found.get("outcome") == "done", found
        assert found["counts"]["damaged"] == 0
        assert repaired["error"]["type"] == "StorageError"
        assert {p: p.stat().st_mtime_ns for p in before} == before
    finally:
        for path in [small.root, *small.root.rglob("*")]:
            path.chmod(0o755)
        ledger.close()
