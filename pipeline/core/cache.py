"""The user's cache folder, for downloaded files that can be downloaded again."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import StorageError


def default_cache() -> Path:
    """The folder for downloaded files: `dalle-pipeline` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dalle-pipeline"


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Let only one process of this machine at a time create `path`; the others wait.

    Raises StorageError if the folder of `path` can't be written to.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
    except OSError as error:
        raise StorageError(f"The cache {path.parent} can't be used: {error.strerror}.") from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
