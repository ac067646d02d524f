"""The checks that every folder shares: its files, its rows, its counts, its manifest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import FileEntry
from pipeline.core.errors import ContractError, PipelineError
from pipeline.core.integrity import described_files, find_fault
from pipeline.core.inventory import Folder
from pipeline.core.parsing import parse_json_file
from pipeline.core.stage import load_function
from pipeline.core.stages import CONTRACTS, stage_of
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    ManifestHead,
    manifest_seal,
    sha256_file,
)
from pipeline.verify.faults import Fault


def check_folder(folder: Folder) -> Iterator[Fault]:
    """Yield the faults of a folder's own files."""
    if folder.manifest is None:
        yield from _check_head(folder)
    else:
        yield from _check_seal(folder)
        yield from _check_law(folder)
    check = stage_of(folder.contract).check_files
    yield from check_files(folder) if check is None else load_function(check)(folder)


def check_files(folder: Folder) -> Iterator[Fault]:
    """Yield the faults of the files that a folder's manifest, or its mark, describes."""
    for entry in described_files(folder.path).values():
        yield from check_file(folder, entry)


def why_unfinished(folder: Folder) -> str | None:
    """Why a folder has no readable manifest without being damaged; None if it is damaged or has one."""
    path = folder.path / MANIFEST_NAME
    if folder.manifest is not None:
        return None
    if not path.is_symlink() and not path.exists():
        return "not finished: the same command resumes it"
    version = _read_version(path, folder.contract)
    if version is not None and not CONTRACTS[folder.contract].reads(version):
        return f"made by another version (contract version {version}): its command rebuilds it"
    return None


def _read_version(path: Path, contract: str) -> int | None:
    """The version in a manifest of this contract, None if it isn't one."""
    try:
        head = parse_json_file(path, ManifestHead)
    except ContractError:
        return None
    return head.version if head.contract == contract and 0 < head.version < 1000 else None


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The checked fields of the mark of an unfinished folder."""

    contract: str
    files: tuple[Any, ...]


def _check_head(folder: Folder) -> Iterator[Fault]:
    """Faults of an unreadable manifest, or of the mark of an unfinished folder."""
    if why_unfinished(folder) is None:
        found = f"is damaged: {explain(folder.problem)}"
        yield Fault(folder=folder.name, file=MANIFEST_NAME, found=found)
        return
    mark = folder.path / UNFINISHED_NAME
    if not mark.exists():
        return
    try:
        whole = parse_json_file(mark, _Mark).contract == folder.contract
    except ContractError:
        whole = False
    if not whole:
        yield Fault(folder=folder.name, file=UNFINISHED_NAME, found="is damaged: it can't be read")


def _check_seal(folder: Folder) -> Iterator[Fault]:
    path = folder.path / MANIFEST_NAME
    try:
        raw = parse_json_file(path, dict[str, Any])
        said = raw.pop("sha256", None)
    except ContractError as error:
        yield Fault(
            folder=folder.name, file=MANIFEST_NAME, found=f"can't be read ({explain(error)})"
        )
        return
    if said is not None and said != manifest_seal(raw):  # versions before 0.1.0 wrote none
        yield Fault(
            folder=folder.name, file=MANIFEST_NAME, found="has been changed since it was written"
        )


def check_file(
    folder: Folder, entry: FileEntry, *, hash_of: Callable[[Path], str] = sha256_file
) -> Iterator[Fault]:
    """Yield the fault of a file that the folder's manifest describes; see `find_fault`."""
    try:
        fault = find_fault(folder.path, entry, hash_of=hash_of)
        if fault is None and entry.path.endswith(".parquet") and entry.rows is not None:
            fault = _count_rows(folder.path / entry.path, entry.rows)
    except ContractError as error:  # a path outside the folder
        yield Fault(folder=folder.name, file=MANIFEST_NAME, found=f"is damaged: {explain(error)}")
        return
    if fault is not None:
        yield Fault(folder=folder.name, file=entry.path, found=fault)


def _count_rows(path: Path, expected: int) -> str | None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_metadata(path).num_rows
    except (OSError, ValueError, pa.ArrowException) as error:
        return f"is not a readable table ({error})"
    return None if rows == expected else f"has {rows} rows, expected {expected}"


def _check_law(folder: Folder) -> Iterator[Fault]:
    assert folder.manifest is not None
    law = CONTRACTS[folder.contract].count_law
    if law is None:
        return
    counts = folder.manifest.counts
    total, parts = counts.get(law.total), [counts.get(part, 0) for part in law.parts]
    if total is not None and law.further is not None:
        total += counts.get(law.further, 0)
    if total != sum(parts):
        shown = " + ".join(
            f"{part} {number}" for part, number in zip(law.parts, parts, strict=True)
        )
        names = f"{law.total} + {law.further}" if law.further in counts else law.total
        found = f"counts {names} {total}, which is not {shown}"
        yield Fault(folder=folder.name, file=MANIFEST_NAME, found=found)


def explain(error: PipelineError | str | None) -> str:
    """The sentence of an error, or of its message, without the advice that follows it."""
    return str(error).split(" Run `pipeline verify --repair`")[0].rstrip(".")
