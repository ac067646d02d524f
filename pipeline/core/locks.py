"""Locks on the folders that a command writes or reads.

A lock is a file in `.locks/` of the workspace, named like the folder that it guards. The command that writes
the folder holds it exclusively; commands that need the folder unchanged while they read it share it. The
kernel releases it when the process ends, however it ends. Commands that only inspect need no lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from pipeline.core.errors import LockedError
from pipeline.core.storage import storage_error

LOCKS_NAME = ".locks"
# Shared by every command that works in the workspace, held exclusively by those that change all of it.
WHOLE_WORKSPACE = "workspace"


@contextlib.contextmanager
def hold_folders(
    root: Path,
    *,
    writes: Iterable[str] = (),
    reads: Iterable[str] = (),
    describe: Callable[[str], str] = lambda _: "another process",
) -> Iterator[None]:
    """Hold folders of the workspace `root`, by relative path: `writes` exclusively, `reads` shared.

    Raises LockedError if another process holds one of them; `describe(folder)` names that process.
    """
    alone = set(writes)
    with contextlib.ExitStack() as held:
        for folder in sorted(alone | set(reads)):
            kind = fcntl.LOCK_EX if folder in alone else fcntl.LOCK_SH
            file = held.enter_context(_open(root, folder, shared=folder not in alone))
            if file is None:
                continue
            try:
                fcntl.flock(file, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                place = root if folder == WHOLE_WORKSPACE else root / folder
                raise LockedError(
                    f"{place} is in use by {describe(folder)}. Wait until it has finished, or stop it, "
                    "then run the command again."
                ) from None
        yield


@contextlib.contextmanager
def _open(root: Path, folder: str, *, shared: bool = False) -> Iterator[int | None]:
    """Open a lock. In a read-only workspace, a shared one that doesn't exist is None: nobody can hold it."""
    path = root / LOCKS_NAME / f"{folder.replace('/', '+')}.lock"
    descriptor = None
    try:
        path.parent.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if not shared or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise storage_error(error, path) from error
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    if descriptor is None:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hold_file(root: Path, name: str) -> Iterator[None]:
    """Wait for the lock on a small file of the workspace, and hold it during a change."""
    with _open(root, name) as file:
        assert file is not None
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
