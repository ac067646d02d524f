"""Whether files are still what was written: their sizes and hashes against what lists them. Core layer.

A finished folder's manifest describes its files; the mark of an unfinished one keeps what the manifest said
of those that stayed. What a stage reads from another folder is checked here before it is used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.contracts import FileEntry, Manifest
from pipeline.core.errors import ContractError, damaged
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file, read_small_file
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME, sha256_bytes, sha256_file


def find_fault(
    folder: Path, entry: FileEntry, *, hash_of: Callable[[Path], str] = sha256_file
) -> str | None:
    """What is wrong with a listed file, in words that follow its name; None where it is whole.

    `hash_of` makes the hash that is listed, of a file whose bytes are not hashed as they are.
    Raises ContractError for a path that leads out of the folder.
    """
    path = path_inside(folder, entry.path, source=folder / MANIFEST_NAME)
    try:
        if not path.is_file():
            return "is missing"
        found = path.stat().st_size
        if found != entry.bytes:
            return f"has {found} bytes, expected {entry.bytes}"
        if hash_of(path) != entry.sha256:
            return "has another sha256 than its manifest: its bytes changed"
    except OSError as error:
        return f"can't be read ({error.strerror})"
    return None


def checked_files(folder: Path, entries: Iterable[FileEntry]) -> tuple[Path, ...]:
    """The paths of listed files, each whole.

    Reads them once, about 1 GB a second and core. Raises DamageError that names the first that is not.
    """
    paths = []
    for entry in entries:
        if fault := find_fault(folder, entry):
            raise damaged(f"{folder / entry.path} {fault}.")
        paths.append(folder / entry.path)
    return tuple(paths)


def read_checked(folder: Path, manifest: Manifest, name: str) -> bytes:
    """The bytes of a small file that the manifest of `folder` lists.

    Raises DamageError where it is not listed, gone, or another one.
    """
    entry = next((entry for entry in manifest.files if entry.path == name), None)
    if entry is None:
        raise damaged(f"{folder / MANIFEST_NAME} does not list {name}.")
    path = path_inside(folder, name, source=folder / MANIFEST_NAME)
    try:
        data = read_small_file(path, remedy="")
    except ContractError as error:
        raise damaged(str(error)) from error
    if sha256_bytes(data) != entry.sha256:
        raise damaged(f"{path} is not the file that its manifest lists (sha256 differs).")
    return data


def described_files(folder: Path) -> dict[str, FileEntry]:
    """The files that the manifest of `folder` describes, by path; where it is unfinished, those that its
    mark describes and that are still there.

    Empty where neither can be read: nothing is known of the files then.
    """
    with contextlib.suppress(ContractError):
        manifest = parse_json_file(folder / MANIFEST_NAME, Manifest)
        return {entry.path: entry for entry in manifest.files}
    with contextlib.suppress(ContractError):
        mark = parse_json_file(folder / UNFINISHED_NAME, _Mark)
        entries = [entry for entry in mark.files if isinstance(entry, FileEntry)]
        return {entry.path: entry for entry in entries if (folder / entry.path).exists()}
    return {}


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """What the mark of an unfinished folder says of its files: their paths, or all of it."""

    files: tuple[FileEntry | str, ...]
