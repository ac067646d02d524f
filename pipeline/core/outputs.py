"""Files that the user names for a command to write: `--out`, `--export`.

The file appears complete or not at all, and nothing else is lost: links are followed; pipes, devices and
`/dev/stdout` are written to and never replaced; and a file with content of another kind is refused.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.core.errors import ConfigError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.storage import storage_error, sync_folder

_MOST_LINKS = 40


@dataclass(kw_only=True)
class Output:
    """The file being written; `unchanged` is set at the end if it already had exactly these bytes."""

    file: IO[bytes]
    unchanged: bool = False


@contextlib.contextmanager
def write_output(
    path: Path, *, kind: str, magic: bytes, overwrite: bool = True
) -> Iterator[Output]:
    """Open a file that the user named.

    `kind` is its kind of content, and `magic` the first bytes of that kind. Without `overwrite`, an existing
    file with other bytes is refused, but only at the end, since the same bytes are fine. Raises the
    ConfigErrors of `check_output` and for a file that would be overwritten, StorageError if writing fails,
    BrokenPipeError if the reader of a pipe has exited.
    """
    check_output(path, kind=kind, magic=magic)
    if _is_stream(path):
        with tempfile.TemporaryFile() as whole:
            yield Output(file=whole)
            _copy_to_stream(whole, path)
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("xb") as file:
            output = Output(file=file)
            yield output
            file.flush()
            os.fsync(file.fileno())
        _put_in_place(temporary, target, output, overwrite=overwrite)
    except OSError as error:
        raise storage_error(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_output(path: Path, *, kind: str, magic: bytes) -> None:
    """Raise ConfigError if nothing can be written, or content of another kind would be lost."""
    try:
        found = _stat(path)
        if found is not None and stat.S_ISDIR(found.st_mode):
            raise ConfigError(f"{path} is a folder. Give the name of a file for the {kind}.")
        if found is None and not Path(os.path.realpath(path)).parent.is_dir():
            raise ConfigError(
                f"{path} can't be written: its folder doesn't exist. Create it first."
            )
        begins = b"" if found is None or _is_stream(path) else _read_beginning(path, len(magic))
    except OSError as error:
        raise ConfigError(
            f"{path} can't be written: {error.strerror}. Give another file."
        ) from error
    if begins not in (b"", magic):
        raise ConfigError(
            f"{path} exists and is not a {kind}. Nothing was touched: give another file, or move "
            "that one away."
        )


def _stat(path: Path) -> os.stat_result | None:
    """The status of the file behind links; None if there is none."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _read_beginning(path: Path, length: int) -> bytes:
    with path.open("rb") as file:
        return file.read(length)


def leads_to_stdout(path: Path) -> bool:
    """Whether a path leads to this process's standard output, as /dev/stdout does."""
    return _find_descriptor(path) == 1


def _put_in_place(temporary: Path, target: Path, output: Output, *, overwrite: bool) -> None:
    exists = target.exists()
    output.unchanged = exists and filecmp.cmp(temporary, target, shallow=False)
    if output.unchanged:
        return
    if exists and not overwrite:
        raise ConfigError(
            f"{target} exists with other bytes. Nothing was touched: give another --out, or "
            "--overwrite to replace it."
        )
    if exists:
        shutil.copymode(target, temporary)
    temporary.replace(target)
    sync_folder(target.parent)


def _is_stream(path: Path) -> bool:
    """Whether the path is a pipe, a device or a descriptor instead of a regular file."""
    if _find_descriptor(path) is not None:
        return True
    found = _stat(path)
    return found is not None and not stat.S_ISREG(found.st_mode)


def _copy_to_stream(whole: IO[bytes], path: Path) -> None:
    descriptor = _find_descriptor(path)
    whole.seek(0)
    try:
        if descriptor is not None:
            sys.stdout.flush()
            descriptor = os.dup(descriptor)
        with open(path if descriptor is None else descriptor, "wb") as stream:  # noqa: PTH123
            shutil.copyfileobj(whole, stream, 1 << 20)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(error, path) from error


def _find_descriptor(path: Path) -> int | None:
    """The descriptor of this process that a path leads to, as /dev/fd/1 does; None for other paths."""
    place = os.path.abspath(path)  # noqa: PTH100  (links are kept: they are followed one by one)
    for _ in range(_MOST_LINKS):
        folder, name = os.path.realpath(os.path.dirname(place)), os.path.basename(place)  # noqa: PTH119,PTH120
        if re.fullmatch(rf"/proc/{os.getpid()}/(task/\d+/)?fd", folder) and name.isdecimal():
            return int(name)
        try:
            place = os.path.join(folder, os.readlink(place))  # noqa: PTH115,PTH118
        except OSError:
            return None
    return None
