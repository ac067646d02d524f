"""Dependencies between folders of a workspace: which codecs, tokenizers and codes others were made with.

A folder uses another one if its manifest, plan, index or one of its checkpoints names it, by path or
fingerprint. Reads only these small JSON files.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ContractError
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.ownership import own_files
from pipeline.core.parsing import read_small_file
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME
from pipeline.core.workspace import Workspace

# A run of a series, as named by the Airflow DAG: NAME-20260104T000000.
_DATED = re.compile(r"runs/(.+)-\d{8}T\d{6}")
_REFERENCING_FILES = (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    "plan.json",
    "index.json",
    "checkpoints/*/checkpoint.json",
)


@dataclass(frozen=True, kw_only=True)
class Use:
    """A codec, tokenizer or set of codes, and the sorted names of the folders that were made with it."""

    folder: Folder
    used_by: tuple[str, ...]
    is_latest: bool


def find_uses(root: Path) -> list[Use]:
    """The uses of codecs, tokenizers and codes in the workspace `root`, in the order of the pipeline."""
    folders = find_folders(root)
    references = {folder.name: _read_references(folder.path) for folder in folders}
    workspace = Workspace(root)
    return [
        Use(
            folder=folder,
            used_by=tuple(
                name
                for name, text in sorted(references.items())
                if name != folder.name and _names(text, folder)
            ),
            is_latest=workspace.latest(folder.contract) in (None, folder.path.name),
        )
        for folder in folders
        if CONTRACTS[folder.contract].shared
    ]


def find_unneeded(root: Path) -> list[Folder]:
    """Codecs, tokenizers and codes that no remaining folder uses, except the latest of each kind.

    Unfinished folders are not listed, since their stage can resume them.
    """
    uses = find_uses(root)
    gone: set[str] = set()
    while more := {
        use.folder.name
        for use in uses
        if use.folder.name not in gone
        and use.folder.manifest is not None
        and not use.is_latest
        and set(use.used_by) <= gone
    }:
        gone |= more
    return [use.folder for use in uses if use.folder.name in gone]


def find_old_runs(root: Path, keep: int) -> list[Folder]:
    """Finished runs of each series (NAME-TIME) that nothing needs, except the newest `keep`.

    A run is needed by images generated from it, by a run of another name that started from it, and by an
    unfinished run that started from it. Finished runs of the same series have their own weights.
    """
    folders = find_folders(root)
    series: dict[str, list[Folder]] = defaultdict(list)
    for folder in folders:
        found = _DATED.fullmatch(folder.name)
        if found and folder.manifest is not None:
            series[found[1]].append(folder)
    old = [run for runs in series.values() for run in sorted(runs, key=_name)[: -keep or None]]
    references = {folder.name: _read_references(folder.path) for folder in folders}
    return [
        run
        for run in old
        if not any(
            f"{run.name}/" in text.replace('"', "/") and not _is_in_series(run, name, folders)
            for name, text in references.items()
            if name != run.name
        )
    ]


def _is_in_series(run: Folder, name: str, folders: list[Folder]) -> bool:
    """Whether `name` is a finished run in the same series as `run`."""
    first, other = _DATED.fullmatch(run.name), _DATED.fullmatch(name)
    finished = {folder.name for folder in folders if folder.manifest is not None}
    return bool(first and other and first[1] == other[1] and name in finished)


def _name(folder: Folder) -> str:
    return folder.name


def size_of(folder: Folder) -> int:
    """The size of a folder's own files."""
    paths = (folder.path / name for name in own_files(folder.path, folder.contract))
    return sum(path.lstat().st_size for path in paths)


def _names(text: str, folder: Folder) -> bool:
    """Whether a text names the folder, by its path or by the fingerprint of its content."""
    fingerprint = (
        folder.manifest.details.get("fingerprint") if folder.manifest is not None else None
    )
    marks = [f'"{folder.name}"', *([f'"{fingerprint}"'] if fingerprint else [])]
    return any(mark in text for mark in marks)


def _read_references(folder: Path) -> str:
    return "\n".join(_texts(folder))


def _texts(folder: Path) -> Iterator[str]:
    for pattern in _REFERENCING_FILES:
        for path in sorted(folder.glob(pattern)):
            try:
                yield read_small_file(path).decode(errors="replace")
            except ContractError:
                continue  # `verify` reports it
