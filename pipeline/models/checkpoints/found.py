"""Whose checkpoint lies at a path, and the hash that names it in a manifest. Floor 3."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError
from pipeline.models.checkpoints.ours import INFO_FILE, list_checkpoints
from pipeline.storage import sha256_bytes, sha256_file


def find_own(path: Path) -> Path | None:
    """The folder of our checkpoint at `path`, which may be its run's folder; None if there is none."""
    if (path / INFO_FILE).exists():
        return path
    found = list_checkpoints(path / "checkpoints")
    return found[-1] if found else None


def checkpoint_digest(path: Path) -> str:
    """The hash that names a checkpoint, ours or one of DALLE-pytorch, in a manifest.

    Raises ConfigError where nothing is.
    """
    own = find_own(path)
    if own is not None:
        return sha256_file(own / INFO_FILE)
    if path.is_file():
        return sha256_file(path)
    files = [file for file in sorted(path.rglob("*")) if file.is_file()]
    if not files:
        raise ConfigError(
            f"{path}: nothing is there. Give a checkpoint's folder, a dalle.pt, or a folder that "
            "DeepSpeed wrote."
        )
    return sha256_bytes("".join(sha256_file(file) for file in files).encode())
