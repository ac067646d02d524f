"""The checkpoints of a run: which folders are ours, how one is put in place and how removed. Layer 3.

A checkpoint of ours has a name like `step-000500`, and its description has the step of the name. Anything
else among them (a copy, a note, `step-000500-best`) is the user's, and is neither used nor deleted.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import ModelError
from pipeline.core.ownership import next_free
from pipeline.core.storage import TEMPORARY_SUFFIX, storage_error, sync_folder
from pipeline.models.checkpoints.info import INFO_FILE, read_description, step_of_name

logger = logging.getLogger(__name__)

_OWN_FILE = re.compile(rf"({re.escape(INFO_FILE)}|[a-z]+\.safetensors)(\.partial)?")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is among those in `folder`."""
    return folder / f"step-{step:06d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The folders in `folder` that are named as a checkpoint of ours, by step; they may be damaged."""
    steps = {path: step_of_name(path) for path in folder.glob("step-*")}
    ours = {
        path: step
        for path, step in steps.items()
        if step is not None and path.is_dir() and not path.is_symlink()
    }
    return sorted(ours, key=ours.__getitem__)


def put_in_place(partial: Path, folder: Path) -> None:
    """Make `partial` the checkpoint `folder`: by one rename, unless files of the user's are in there.

    What is there already is replaced if it is ours (a damaged one), else moved aside. Raises StorageError
    where the disk refuses.
    """
    try:
        remove_checkpoint(folder)
        if folder.is_symlink() or folder.is_file() or any(_own_files(folder)):
            aside = next_free(folder.with_name(f"{folder.name}-moved"))
            folder.rename(aside)
            logger.warning("%s holds what is not of this run; moved it to %s", folder, aside.name)
        if folder.exists():
            for path in reversed(
                list(_own_files(partial))
            ):  # the description last: it says all is there
                path.replace(folder / path.name)
            partial.rmdir()
        else:
            partial.rename(folder)
        sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(error, folder) from error


def remove_checkpoint(folder: Path) -> None:
    """Delete a checkpoint of ours, also a damaged one; anything else in its folder stays.

    Nothing is done where its description says another step than the folder's name: that is a copy.
    """
    if not is_copy(folder):
        remove_own_files(folder)


def is_copy(folder: Path) -> bool:
    """Whether a folder that is named as a checkpoint of ours holds that of another step."""
    with contextlib.suppress(ModelError):
        info, _ = read_description(folder / INFO_FILE, any_name=True)
        return info.step != step_of_name(folder)
    return False


def sweep_partial(folder: Path) -> None:
    """Delete what a killed run left of checkpoints that it was writing into `folder`."""
    for path in sorted(folder.glob(f"step-*{TEMPORARY_SUFFIX}")):
        if step_of_name(path.with_suffix("")) is not None and not path.is_symlink():
            remove_own_files(path)


def remove_own_files(folder: Path) -> None:
    """Delete the files that a checkpoint has, its description first, and the folder if it is empty."""
    for path in _own_files(folder):
        path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _own_files(folder: Path) -> Iterator[Path]:
    paths = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    own = [path for path in paths if _OWN_FILE.fullmatch(path.name) and not path.is_dir()]
    yield from sorted(own, key=lambda path: path.name != INFO_FILE)
