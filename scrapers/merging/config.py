"""Options of `pipeline merge`. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class MergeConfig(StageConfig):
    """The workspaces to merge into `workspace`, which must be new."""

    inputs: tuple[str, ...] = option(
        (), "Workspaces of the same source, such as those of several --shard.", metavar="WORKSPACE"
    )
