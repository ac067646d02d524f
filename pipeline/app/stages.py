"""The stages by name, and the default folder of a workspace."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.core.stage import Stage
from pipeline.core.stages import all_stages

STAGES: Mapping[str, Stage] = all_stages()


def default_workspace(source: str) -> Path:
    """The default workspace of a source."""
    return Path("data") / source
