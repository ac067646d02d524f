"""The contents of a workspace: every folder with a contract, its manifest, and whether it is outdated.

Used by `verify`, `status` and the report; reads only manifests.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.contracts import Contract, Manifest
from pipeline.core.errors import ContractError
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME, input_digest, read_manifest


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that a stage wrote or is writing.

    `manifest` is None if the folder is unfinished or its manifest unreadable; then `problem` says why.
    `stale` names the inputs that have changed since, by their path in the workspace. For tokenizers and
    codecs, which are trained only once, these are in `outgrown` instead.
    """

    contract: str
    name: str
    path: Path
    manifest: Manifest | None
    problem: str | None
    stale: tuple[str, ...] = ()
    outgrown: tuple[str, ...] = ()


def find_folders(root: Path) -> list[Folder]:
    """All folders of the workspace `root` that have a contract, in the order of the pipeline."""
    changed = functools.cache(functools.partial(_changed, root))
    return [
        _describe_folder(root, path, contract.name, changed)
        for contract in CONTRACTS.values()
        for path in _matching_folders(root, contract)
        if path.is_dir()
    ]


def _matching_folders(root: Path, contract: Contract) -> Iterator[Path]:
    """The folders of a contract; with two name levels, some are one level deeper, as runs/taming/12L_…."""
    marks = (MANIFEST_NAME, UNFINISHED_NAME, contract.earlier_mark)
    for path in sorted(root.glob(contract.place)):
        below = path.glob("*/*") if contract.name_levels > 1 else ()
        deeper = sorted({file.parent for file in below if file.name in marks})
        yield from deeper or (path,)


def _describe_folder(
    root: Path, path: Path, contract: str, is_changed: Callable[[str, str], bool]
) -> Folder:
    name = path.relative_to(root).as_posix()
    try:
        manifest = read_manifest(path, contract)
    except ContractError as error:
        return Folder(contract=contract, name=name, path=path, manifest=None, problem=str(error))
    changed = tuple(
        source for source, digest in sorted(manifest.inputs.items()) if is_changed(source, digest)
    )
    once = CONTRACTS[contract].trained_once
    return Folder(
        contract=contract,
        name=name,
        path=path,
        manifest=manifest,
        problem=None,
        stale=() if once else changed,
        outgrown=changed if once else (),
    )


def _changed(root: Path, source: str, digest: str) -> bool:
    """Whether the input named by its path in the workspace has changed."""
    folder = root / source
    if source.split("/")[0] not in {contract.top for contract in CONTRACTS.values()}:
        return False  # an outside file, listed for information
    try:
        return input_digest(folder) != digest
    except ContractError:
        return True


def find_outdated(folders: list[Folder]) -> dict[str, tuple[str, ...]]:
    """For each outdated folder, by name, its inputs that have changed or are outdated themselves."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in folders:  # in the order of the pipeline: inputs come first
        inputs = folder.manifest.inputs if folder.manifest is not None else {}
        inherited = [name for name in inputs if name in found]
        names = dict.fromkeys([*folder.stale, *inherited])
        if names and not CONTRACTS[folder.contract].trained_once:
            found[folder.name] = tuple(names)
    return found
