"""The first run of the README, typed as it is printed: its commands, its output, the folder it leaves."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "README.md").read_text().partition("## First run")[2].partition("\n## ")[0]
REPLICA, TYPED, PRINTED, TREE = re.findall(r"^```\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
PIPELINE = [sys.executable, "-m", "pipeline"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The URL of the mock server, started as the README says, on a free port."""
    words = shlex.split(REPLICA.replace("8000", "0"))[1:]
    with subprocess.Popen(
        [*PIPELINE, *words], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found
        try:
            yield found[0]
        finally:
            process.terminate()


def without_numbers(line: str) -> str:
    """A line of output without what depends on the machine: times, hashes, counts of what the report has."""
    return re.sub(r"in [\d.]+ s|-[0-9a-f]{12}|\(sections .*\)", "", line)


def files_of(tree: str) -> Iterator[str]:
    """Paths that the README's tree names, as patterns for `glob`."""
    folder = ""
    for line in tree.splitlines()[1:]:
        words = line.replace("0000-00.png … 0000-03.png", "0000-0*.png").split()
        if words[0].endswith("/") and line.startswith("  ") and line[2] != " ":
            folder, *words = words
        for word in words:
            yield re.sub(r"-[0-9a-f]{12}", "-*", f"{folder}{word}")


@pytest.mark.timeout(900)
def test_the_first_run_prints_and_leaves_what_the_readme_shows(tmp_path: Path, server: str) -> None:
    printed = []
    commands = TYPED.replace("http://127.0.0.1:8000", server.rstrip("/")).replace("\\\n", " ")
    for command in commands.splitlines():
        done = subprocess.run(
            [*PIPELINE, *shlex.split(command)[1:]],
            cwd=tmp_path,
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        printed += [without_numbers(line) for line in (done.stdout + done.stderr).splitlines()]
    assert [
        line for line in map(without_numbers, PRINTED.splitlines()) if line not in printed
    ] == []
    workspace = tmp_path / TREE.splitlines()[0]
    assert [name for name in files_of(TREE) if not list(workspace.glob(name))] == []
