"""A small workspace that has gone through all stages, and the commands that look at it or go on with it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica
from tests.helpers.cli import run_command
from tests.helpers.small_options import scrape_options, small_options


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The workspace, and the options that it was made with."""

    root: Path
    options: Path

    def copy(self, root: Path) -> Whole:
        """The same workspace at another place, ready to be damaged."""
        shutil.copytree(self.root, root, symlinks=True)
        return Whole(root=root, options=self.options)

    def call(self, *arguments: str) -> Any:
        """Run a command on it, in this process."""
        name, *more = arguments
        place = ("--workspace", str(self.root), "--config", str(self.options))
        return run_command([name, *place, *more])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The workspace that tests copy; its mock server runs until the end."""
    # It logs requests that nobody can read.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    folder = tmp_path_factory.mktemp("whole")
    with Replica(ReplicaConfig(sections=("relative_positions",), size=16)) as server:
        options = folder / "options.toml"
        scrape = scrape_options(server.url, "relative_positions", limit=2, attempts=1)
        prompts = {"prompts": ["a small red block"], "num_images": 1}
        tables = {"scrape": scrape, "train": {"save_every": 1}, "generate": prompts}
        options.write_text(small_options(tables))
        made = Whole(root=folder / "data", options=options)
        result = made.call("run")
        assert result.exit_code == 0, result.output
        yield made
