"""A run's checkpoint folders: listing them, moving one into place, removing one.

A checkpoint has a name like `step-000500` and the same step in its checkpoint.json. Anything else beside
them (a copy, a note, `step-000500-best`) belongs to the user and is neither used nor deleted.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ModelError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.ownership import next_free
from pipeline.core.storage import storage_error, sync_folder
from pipeline.models.checkpoints.info import INFO_FILE, read_checkpoint_json, step_of_name

logger = logging.getLogger(__name__)

_OWN_FILE = re.compile(rf"({re.escape(INFO_FILE)}|[a-z]+\.safetensors)(\.partial)?")


def checkpoint_path(folder: Path, step: int) -> Path:
    """The path of a step's checkpoint in `folder`."""
    return folder / f"step-{step:06d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoint folders in `folder`, judged by name, sorted by step; they may be damaged."""
    steps = {path: step_of_name(path) for path in folder.glob("step-*")}
    ours = {
        path: step
        for path, step in steps.items()
        if step is not None and path.is_dir() and not path.is_symlink()
    }
    return sorted(ours, key=ours.__getitem__)


def put_in_place(partial: Path, folder: Path) -> None:
    """Move the complete checkpoint `partial` to `folder`: by one rename, unless it holds files of the user.

    An existing checkpoint (a damaged one) is replaced; anything else in the way is moved aside. Raises
    StorageError if writing fails.
    """
    try:
        remove_checkpoint(folder)
        if folder.is_symlink() or folder.is_file() or any(_own_files(folder)):
            aside = next_free(folder.with_name(f"{folder.name}-moved"))
            folder.rename(aside)
            logger.warning("%s does not belong to this run; moved it to %s", folder, aside.name)
        if folder.exists():
            # checkpoint.json last: it marks the checkpoint as complete.
            for path in reversed(list(_own_files(partial))):
                path.replace(folder / path.name)
            partial.rmdir()
        else:
            partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(error, folder) from error


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint's files, damaged or not; other files in its folder stay.

    Does nothing if the step in checkpoint.json differs from the folder's name: that is a user's copy.
    """
    if not is_copy(folder):
        remove_own_files(folder)


def is_copy(folder: Path) -> bool:
    """Whether a checkpoint folder holds the checkpoint of another step than its name says."""
    with contextlib.suppress(ModelError):
        info, _ = read_checkpoint_json(folder / INFO_FILE, any_name=True)
        return info.step != step_of_name(folder)
    return False


def sweep_partial(folder: Path) -> None:
    """Delete the partial checkpoints that a killed run left in `folder`."""
    for path in sorted(folder.glob(f"step-*{TEMPORARY_SUFFIX}")):
        if step_of_name(path.with_suffix("")) is not None and not path.is_symlink():
            remove_own_files(path)


def remove_own_files(folder: Path) -> None:
    """Delete a checkpoint's own files, checkpoint.json first, and the folder if it is then empty."""
    for path in _own_files(folder):
        path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _own_files(folder: Path) -> Iterator[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    own = [path for path in paths if _OWN_FILE.fullmatch(path.name) and not path.is_dir()]
    yield from sorted(own, key=lambda path: path.name != INFO_FILE)
