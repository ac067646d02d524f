"""Read regular files; folders, pipes and devices are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pipeline.core.errors import ConfigError, PipelineError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_regular(
    path: Path,
    *,
    max_bytes: int,
    error: type[PipelineError] = ConfigError,
    remedy: str = "Give another file.",
) -> bytes:
    """The bytes of a regular file of at most `max_bytes`.

    Raises `error` with what was found instead, or why it can't be read, followed by `remedy`.
    """
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            reason = _find_reason(os.fstat(descriptor), max_bytes)
            data = b"" if reason else _read_all(descriptor)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        raise error(f"{path} is missing. {remedy}".rstrip()) from None
    except (OSError, ValueError) as failure:
        reason = str(failure.strerror if isinstance(failure, OSError) else failure)
        raise error(f"{path} can't be read: {reason}. {remedy}".rstrip()) from failure
    if len(data) > max_bytes:  # it has grown meanwhile
        reason = _too_large(max_bytes)
    if reason:
        raise error(f"{path} can't be read: {reason}. {remedy}".rstrip())
    return data


def _read_all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        return file.read()


def _find_reason(found: os.stat_result, max_bytes: int) -> str:
    """Why a file is refused; "" if it isn't."""
    for is_kind, kind in _KINDS:
        if is_kind(found.st_mode):
            return f"it is {kind}"
    return _too_large(max_bytes) if found.st_size > max_bytes else ""


def _too_large(max_bytes: int) -> str:
    return f"it has more than {max_bytes:,} bytes"
