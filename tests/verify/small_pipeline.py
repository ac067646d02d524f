"""A small workspace that has gone through all stages, to be copied, damaged and repaired."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from tests.helpers.cli import run_command
from tests.helpers.small_options import scrape_options, small_options

SECTION = "relative_positions"


@dataclass(frozen=True, kw_only=True)
class Small:
    """A workspace, and the config file of its stages."""

    root: Path
    options: Path

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.root)

    def copy(self, root: Path) -> Small:
        shutil.copytree(self.root, root, symlinks=True)
        return Small(root=root, options=self.options)

    def call(self, command: str, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Run a command in this process; returns its JSON report."""
        place = ("--workspace", str(self.root), "--config", str(self.options), "--json")
        result = run_command([command, *arguments, *place])
        assert result.exit_code == code, result.output
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return report

    def type(self, line: str) -> dict[str, Any]:
        """Run a printed command unchanged."""
        pipeline, *words = shlex.split(line)
        assert pipeline == "pipeline"
        result = run_command([*words, "--json"])
        assert result.exit_code == 0, result.output
        report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        return report

    def repair(self) -> dict[str, Any]:
        """Run `pipeline verify --repair`; returns its report."""
        details: dict[str, Any] = self.call("verify", "--repair", "--images", "0")["details"]
        return details

    def files(self, folder: str = ".") -> dict[str, bytes]:
        """The files of stages below a folder, without what was set aside."""
        return {
            path.relative_to(self.root).as_posix(): path.read_bytes()
            for path in sorted((self.root / folder).rglob("*"))
            if path.is_file()
            and ".damaged" not in path.as_posix()
            and _is_of_a_stage(self.root, path)
        }


def _is_of_a_stage(root: Path, path: Path) -> bool:
    top = path.relative_to(root).parts[0]
    if ".damaged" in path.as_posix() or path.name.endswith((".partial", "-shm", "-wal")):
        return False
    return top in {"raw", "dedupe", "tokenizers", "codecs", "codes", "shards", "runs", "generated"}


def flip(path: Path, *, at: float = 0.5, count: int = 64) -> None:
    """Flip a bit in each of `count` consecutive bytes, at a fraction of the file."""
    data = bytearray(path.read_bytes())
    start = min(int(at * len(data)), max(0, len(data) - count))
    for place in range(start, min(start + count, len(data))):
        data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="session")
def serve_blog() -> Iterator[str]:
    """A mock server of the blog; its URL."""
    with Replica(ReplicaConfig(sections=(SECTION,), size=24)) as replica:
        yield replica.url


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, serve_blog: str) -> Small:
    """The workspace that tests copy."""
    folder = tmp_path_factory.mktemp("small")
    options = folder / "options.toml"
    tables = {
        "scrape": scrape_options(serve_blog, SECTION, limit=2, attempts=2),
        "train-tokenizer": {"vocab_size": 290},
        "encode": {"part_rows": 12},
        "shard": {"max_samples": 10},
        "train": {"steps": 3, "save_every": 1, "keep_n_checkpoints": 3},
        "generate": {
            "prompts": ["a small red block", "a large blue block"],
            "device": "cpu",
            "threads": 1,
        },
    }
    options.write_text(small_options(tables))
    small = Small(root=folder / "data", options=options)
    small.call("run")
    return small


@pytest.fixture
def small(whole: Small, tmp_path: Path) -> Small:
    """A copy of it."""
    return whole.copy(tmp_path / "data")
