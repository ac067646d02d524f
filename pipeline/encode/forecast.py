"""What `pipeline run --dry-run` says of encode."""

from __future__ import annotations

from pathlib import Path

from pipeline.core.contracts import Manifest
from pipeline.core.workspace import Workspace
from pipeline.encode.config import EncodeConfig, codec_name


def folder_name(config: EncodeConfig, workspace: Workspace) -> str:
    """The name of the folder of codes, without the fingerprint."""
    return Path(codec_name(config.codec or workspace.latest("codec") or "")).name


def why_run(_config: EncodeConfig, manifest: Manifest) -> str | None:
    """Images that failed are tried again."""
    failed = manifest.counts.get("failed", 0)
    return f"{failed:,} images failed and are tried again" if failed else None
