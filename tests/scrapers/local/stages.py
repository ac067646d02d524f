"""All stages up to the shards, over a source on disk, with models as small as they can be."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.helpers.cli import run_command
from tests.helpers.small_options import small_options


@dataclass(frozen=True)
class Stages:
    """A workspace, and the commands on it."""

    root: Path

    def call(self, *arguments: str) -> Any:
        """Run a command in this process."""
        options = self.root.with_name(f"{self.root.name}.toml")
        options.write_text(
            small_options({"dedupe": {"val_fraction": 0.2}, "shard": {"images": "original"}})
        )
        flags = ("--workspace", str(self.root), "--config", str(options))
        return run_command([*arguments, *flags])

    def scrape(self, source: str, *inputs: Path | str) -> None:
        """`pipeline scrape SOURCE INPUT…`, which may leave failed rows."""
        result = self.call("scrape", source, *map(str, inputs))
        assert "scrape: done" in result.output, result.output

    def make_shards(self, source: str, *inputs: Path | str) -> dict[str, bytes]:
        """Run all stages up to `shard`; the members of its tars by name."""
        result = self.call("run", source, *map(str, inputs), "--until", "shard")
        assert result.exit_code == 0, result.output
        return self.members()

    def members(self) -> dict[str, bytes]:
        """The members of the shards by name."""
        members = {}
        for path in sorted(self.root.glob("shards/*/*/*.tar")):
            with tarfile.open(path) as tar:
                for member in tar:
                    file = tar.extractfile(member)
                    members[member.name] = file.read() if file is not None else b""
        return members
