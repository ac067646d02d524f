"""What a command may write, replace and delete: names, paths found in files, and ownership of files.

The rules, for every stage:

- A name is a slug, so that no name leads out of its folder (`names.check_name`).
- A path in a file must be relative and stay inside its folder (`path_inside`).
- A folder is only written to if it is new, empty, or marked as ours: by the `manifest.json` of the same
  contract, or by `unfinished.json`, which a stage writes before anything else (`claim`, `start_over`,
  `reopen`).
- Only a contract's own files are deleted: those that its manifest or mark lists and, while the folder is
  unfinished, those with names that the contract's stage writes. All other files are left alone.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.errors import ContractError, WorkspaceError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.parsing import read_small_file
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME, write_json

_LONGEST_PATH = 1024


# --- Paths -----------------------------------------------------------------------------


def path_inside(folder: Path, relative: object, *, source: Path | str) -> Path:
    """The path below `folder` that the file `source` (a manifest, an index, a table) names.

    It need not exist. Raises ContractError for a path that is not relative, contains `..`, leads out of
    `folder` through a link, or is something other than a regular file.
    """
    name = checked_relative(relative, source=source)
    path = folder / name
    try:
        # Without links there is nothing to resolve, which would look at all folders from the root on.
        linked = any(step.is_symlink() for step in (path, *path.parents[: name.count("/")]))
        inside = not linked or path.resolve().is_relative_to(folder.resolve())
        other = path.exists() and not path.is_file()
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        raise ContractError(f"{source} names the path {relative!r}: {error}.") from error
    if not inside or other:
        what = "a folder or a device" if inside else f"outside {folder}"
        raise ContractError(
            f"{source} names the path {relative!r}, which is {what}. Expected a file inside the folder; "
            "nothing was read or written."
        )
    return path


def checked_relative(relative: object, *, source: Path | str) -> str:
    """Return `relative` if it is a relative path without `..`; otherwise raise ContractError."""
    if isinstance(relative, str) and 0 < len(relative) <= _LONGEST_PATH and "\0" not in relative:
        parts = relative.split("/")
        if not any(part in ("", ".", "..") for part in parts):
            return relative
    raise ContractError(
        f"{source} names the path {str(relative)[:200]!r}. Expected a relative path without '..': "
        "nothing was read or written."
    )


def list_family(folder: Path) -> list[Path]:
    """The existing folders of a name: NAME, NAME-2, NAME-3, … (`folder` is NAME)."""
    member = re.compile(re.escape(folder.name) + r"(?:-([2-9]|[1-9]\d{1,5}))?")  # 12 digits: a hash
    numbers = {
        path: int(found[1] or 1)
        for path in folder.parent.glob(f"{glob.escape(folder.name)}*")
        if (found := member.fullmatch(path.name)) and path.is_dir()
    }
    return sorted(numbers, key=lambda path: numbers[path])


def next_free(folder: Path) -> Path:
    """`folder` if it does not exist, else the first free one of NAME-2, NAME-3, … after the last one."""
    family = list_family(folder)
    if not os.path.lexists(folder):
        return folder
    last = family[-1].name.removeprefix(folder.name) if family else ""
    number = int(last[1:]) if last else 1
    while os.path.lexists(beside := folder.with_name(f"{folder.name}-{number + 1}")):
        number += 1
    return beside


# --- Ownership of folders ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """The claim in a folder of ours: whether it is finished, and the files that it lists, by path.

    The value of a file is its description from the manifest, or just its path.
    """

    finished: bool
    files: Mapping[str, object]


def claim(folder: Path, contract: str) -> None:
    """Check that a stage of `contract` may write into `folder`; touches nothing.

    Raises WorkspaceError if it holds anything else: files without our mark, or those of another contract.
    """
    _find_claim(folder, contract)


def start_over(folder: Path, contract: str) -> None:
    """Mark `folder` unfinished and delete the files of its last run; other files stay.

    Raises WorkspaceError, and touches nothing, if the folder is not ours.
    """
    files = own_files(folder, contract)
    mark_unfinished(folder, contract, files)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    delete_files(folder, files)


def reopen(folder: Path, contract: str) -> None:
    """Mark `folder` unfinished and keep its files, for a stage that adds to them or resumes with them.

    The mark describes them as the manifest did, so that damage is still found.
    Raises WorkspaceError, and touches nothing, if the folder is not ours.
    """
    described = _find_claim(folder, contract).files
    files = [described.get(name, name) for name in own_files(folder, contract)]
    mark_unfinished(folder, contract, files)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)


def mark_unfinished(folder: Path, contract: str, files: Iterable[object] = ()) -> None:
    """Write the mark of an unfinished folder.

    `files` are the files that a manifest lists as ours: paths, or their descriptions from the manifest.
    """
    write_json(
        folder / UNFINISHED_NAME,
        {"contract": contract, "version": CONTRACTS[contract].version, "files": list(files)},
    )


def own_files(folder: Path, contract: str) -> list[str]:
    """The contract's own files in `folder`: relative, sorted, without manifest and mark.

    Raises WorkspaceError if the folder is not ours.
    """
    found = _find_claim(folder, contract)
    named = set() if found.finished else set(files_by_name(folder, contract))
    return sorted(name for name in _files_below(folder) if name in found.files or name in named)


def files_by_name(folder: Path, contract: str) -> list[str]:
    """The files in `folder` with names that the contract's stage writes, whatever manifest or mark list."""
    own = re.compile(f"(?:{CONTRACTS[contract].own_files})(?:{re.escape(TEMPORARY_SUFFIX)})?")
    return sorted(name for name in _files_below(folder) if own.fullmatch(name))


def remove_own(folder: Path, contract: str) -> None:
    """Delete the contract's own files in `folder`, and folders that are then empty.

    Raises WorkspaceError, and touches nothing, if the folder is not ours.
    """
    files = own_files(folder, contract)
    reopen(folder, contract)  # if killed midway, it counts as unfinished and can be removed again
    delete_files(folder, [*files, UNFINISHED_NAME])
    with contextlib.suppress(OSError):
        folder.rmdir()


def _find_claim(folder: Path, contract: str) -> _Claim:
    """Raise WorkspaceError for a folder that is not ours, or of another contract."""
    if folder.exists() and not folder.is_dir():
        raise WorkspaceError(
            f"{folder} is not a folder. Nothing was touched; give another name or place."
        )
    for name in (MANIFEST_NAME, UNFINISHED_NAME):
        if os.path.lexists(folder / name):
            said = _read_claim(folder / name, contract)
            return _Claim(finished=name == MANIFEST_NAME, files=said)
    if any(os.path.lexists(folder.parent / name) for name in (MANIFEST_NAME, UNFINISHED_NAME)):
        raise WorkspaceError(
            f"{folder} would be inside {folder.parent}, which a command wrote. Nothing was touched: give "
            "another name or place."
        )
    other = _find_other(folder, contract)
    if other is not None:
        raise WorkspaceError(
            f"{folder} holds {other}, but neither a {MANIFEST_NAME} nor an {UNFINISHED_NAME} of "
            f"{contract!r} that marks it as ours. Nothing was touched: give another name or place, or move "
            "its contents away."
        )
    return _Claim(finished=False, files={})


def _read_claim(path: Path, contract: str) -> dict[str, object]:
    try:
        said: Any = json.loads(read_small_file(path))
        found, files = said["contract"], said["files"]
        named = [(entry["path"] if isinstance(entry, dict) else entry, entry) for entry in files]
    except (ContractError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise WorkspaceError(
            f"{path} can't be read ({error}), so it is unknown whose folder this is. Nothing was touched: "
            "run `pipeline verify --repair`, or give another name."
        ) from error
    if found != contract:
        raise WorkspaceError(
            f"{path.parent} holds {found!r}, not {contract!r}. Nothing was touched: give another name or "
            "place."
        )
    return {checked_relative(name, source=path): entry for name, entry in named}


def _find_other(folder: Path, contract: str) -> str | None:
    """The first file that shows that a folder without a mark is not ours, None if there is none."""
    mark = CONTRACTS[contract].earlier_mark
    if mark is not None and (folder / mark).is_file():
        return None
    files = (name for name in _files_below(folder) if not name.endswith(TEMPORARY_SUFFIX))
    own = re.compile(CONTRACTS[contract].own_files)
    return next((name for name in files if mark is not None or not own.fullmatch(name)), None)


def _files_below(folder: Path) -> Iterator[str]:
    """Yield every file and link below `folder`, relative; links are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]  # noqa: PTH114,PTH118
        for name in sorted([*names, *links]):
            path = PurePosixPath(Path(parent).relative_to(folder)) / name
            if path.as_posix() not in (MANIFEST_NAME, UNFINISHED_NAME):
                yield path.as_posix()


def delete_files(folder: Path, names: Iterable[str]) -> None:
    """Delete files by relative path, and the folders below `folder` that are then empty."""
    parents: set[Path] = set()
    for name in names:
        path = folder / name
        path.unlink(missing_ok=True)
        parents.update(folder / parent for parent in PurePosixPath(name).parents if parent.name)
    for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
        with contextlib.suppress(OSError):  # it contains files of the user
            parent.rmdir()
