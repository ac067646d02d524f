"""A small workspace that has gone through all stages, and the commands that look at it or go on with it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from pipeline.app.cli import app
from pipeline.demo.replica.config import ReplicaConfig
from pipeline.demo.replica.server import Replica

OPTIONS = """
[scrape]
page_url = "http://dalleblog.localhost/blog/dall-e/"
connect_to = "{address}"
sections = ["relative_positions"]
limit = 2
attempts = 1
backoff_s = 0.01

[dedupe]
val_fraction = 0.3
workers = 0

[train-tokenizer]
vocab_size = 300

[train-codec]
image_size = 32
channels = 4
code_dim = 4
num_tokens = 32
steps = 2
workers = 1

[encode]
workers = 1

[shard]
text_seq_len = 16

[train]
dim = 16
depth = 1
heads = 1
dim_head = 16
steps = 2
batch_size = 4
warmup_steps = 1
save_every = 1
threads = 1
device = "cpu"

[generate]
prompts = ["a small red block"]
num_images = 1
"""


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
        return CliRunner().invoke(app, [name, *place, *more])


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """The workspace that tests copy; its mock server runs until the end."""
    torch.set_num_threads(1)
    logging.getLogger("aiohttp.server").setLevel(
        logging.CRITICAL
    )  # of requests that nobody can read
    folder = tmp_path_factory.mktemp("whole")
    with Replica(ReplicaConfig(sections=("relative_positions",), size=16)) as server:
        options = folder / "options.toml"
        options.write_text(OPTIONS.format(address=server.url.removeprefix("http://").strip("/")))
        made = Whole(root=folder / "data", options=options)
        result = made.call("run")
        assert result.exit_code == 0, result.output
        yield made
