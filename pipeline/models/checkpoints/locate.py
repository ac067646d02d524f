"""Find checkpoints: at a path, or the last intact one of a run; and the hash that manifests record."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError, ContractError, ModelError
from pipeline.core.ownership import path_inside
from pipeline.core.storage import MANIFEST_NAME, read_manifest, sha256_bytes, sha256_file
from pipeline.core.suggestions import hint_at_path, name_choices
from pipeline.models.checkpoints.native import INFO_FILE, check_weights, list_checkpoints

_DEEPSPEED_FILES = ("latest", "*.pt", "*.bin", "*/*.pt", "*/*.bin")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunCheckpoint:
    """A run's checkpoint to generate from; `reason` says why it isn't the final one, if it isn't."""

    path: Path
    reason: str | None = None


def find_run_checkpoint(run: Path) -> RunCheckpoint:
    """The final checkpoint of the run in `run`, else its last intact one.

    Damaged checkpoints are skipped with a warning. Raises ModelError if there is no run, or if it has no
    intact checkpoint.
    """
    if not run.is_dir():
        raise ModelError(_no_run(run))
    final = _final_checkpoint(run)
    if final is not None and _is_intact(final):
        return RunCheckpoint(path=final)
    found = list_checkpoints(run / "checkpoints")
    if not found:
        raise ModelError(
            f"{run} has no checkpoint yet: `pipeline train` writes one every --save-every steps and at the "
            "end. Wait for it, or give another --run."
        )
    path = _last_intact([path for path in found if path != final])
    if path is None:
        raise ModelError(
            f"All checkpoints of {run} are damaged. Give another --run, or train it again with "
            "`pipeline train --on-change restart`."
        )
    finished = (run / MANIFEST_NAME).exists()
    return RunCheckpoint(
        path=path, reason="the last one is damaged" if finished else "the run has not finished"
    )


def find_own(path: Path) -> Path | None:
    """The folder of our checkpoint at `path`, which may also be a run's folder; None if there is none.

    For a run it is the last intact one; damaged ones are skipped with a warning.
    """
    if (path / INFO_FILE).exists():
        return path
    return _last_intact(list_checkpoints(path / "checkpoints"))


def checkpoint_digest(path: Path) -> str:
    """The hash of a checkpoint, ours or DALLE-pytorch's, for a manifest.

    Raises ConfigError if there is none.
    """
    own = find_own(path)
    if own is not None:
        return sha256_file(own / INFO_FILE)
    if path.is_file():
        return sha256_file(path)
    # Only DeepSpeed's files, two levels deep, so that a home folder given by mistake isn't read completely.
    found = {file for pattern in _DEEPSPEED_FILES for file in path.glob(pattern)}
    files = [file for file in sorted(found) if file.is_file()]
    if not files:
        raise ConfigError(
            f"{path}: there is no checkpoint.{hint_at_path(path)} Give a checkpoint's folder, a dalle.pt, or "
            "a DeepSpeed folder."
        )
    return sha256_bytes("".join(sha256_file(file) for file in files).encode())


def _final_checkpoint(run: Path) -> Path | None:
    """The checkpoint named in the manifest of a finished run."""
    if not (run / MANIFEST_NAME).exists():
        return None
    named = read_manifest(run, "run").details.get("checkpoint")
    try:
        return path_inside(run, f"{named}/{INFO_FILE}", source=run / MANIFEST_NAME).parent
    except ContractError as error:
        logger.warning("%s", error)
        return None


def _last_intact(checkpoints: list[Path]) -> Path | None:
    return next((path for path in reversed(checkpoints) if _is_intact(path)), None)


def _is_intact(checkpoint: Path) -> bool:
    try:
        check_weights(checkpoint)
    except ModelError as error:
        logger.warning("Skipped the damaged checkpoint %s: %s", checkpoint, error)
        return False
    return True


def _no_run(run: Path) -> str:
    choices = name_choices(run.name, (path.name for path in run.parent.glob("*") if path.is_dir()))
    return f"There is no run {run}. {choices} `pipeline train` creates one."
