"""What is in a workspace: every folder with a contract, its manifest, and what is outdated. Core layer.

`verify`, `status` and the report look through this; it reads manifests and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import CONTRACTS, Manifest
from pipeline.core.errors import ContractError
from pipeline.core.ownership import list_family, next_free
from pipeline.core.storage import MANIFEST_NAME, find_current, input_digest, read_manifest

log = logging.getLogger(__name__)

_TOPS = frozenset(contract.top for contract in CONTRACTS.values())


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder that a stage wrote or is writing.

    `manifest` is None where it is unfinished or unreadable, and `problem` then says why. `stale` names
    the inputs that have changed since, by their path in the workspace; for a tokenizer or a codec, which
    stay as they were trained, these stand in `outgrown` instead.
    """

    contract: str
    name: str
    path: Path
    manifest: Manifest | None
    problem: str | None
    stale: tuple[str, ...] = ()
    outgrown: tuple[str, ...] = ()


def find_trained(
    folder: Path, contract: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> tuple[Path, Manifest] | None:
    """What was trained as `folder` (NAME, NAME-2, …) from just this config and these inputs."""
    for member in reversed(list_family(folder)):
        manifest = find_current(member, contract, config=config, inputs=inputs)
        if manifest is not None:
            return member, manifest
    return None


def free_place(folder: Path, goes_on: Callable[[Path], bool] = lambda _: True) -> Path:
    """Where something is trained under the name of `folder`: there, or NAME-2, … beside what is there.

    An unfinished folder is taken again if `goes_on` says that it was begun for the same work.
    """
    for member in reversed(list_family(folder)):
        if not (member / MANIFEST_NAME).exists() and goes_on(member):
            return member
    place = next_free(folder)
    if place != folder:
        log.warning(
            "%s stays: others may have been made with it. The new one is %s.", folder, place
        )
    return place


def find_folders(root: Path) -> list[Folder]:
    """All folders of the workspace `root` that belong to a contract, in the order of the road."""
    return [
        _look_at(root, path, contract.name)
        for contract in CONTRACTS.values()
        for path in _places(root, contract.place)
        if path.is_dir()
    ]


def _places(root: Path, pattern: str) -> Iterator[Path]:
    """The folders of a pattern; a run's may stand one deeper, as runs/taming/12L_…."""
    for path in sorted(root.glob(pattern)):
        deeper = sorted(path.glob("*/plan.json")) if pattern == "runs/*" else []
        yield from (plan.parent for plan in deeper) if deeper else (path,)


def _look_at(root: Path, path: Path, contract: str) -> Folder:
    name = path.relative_to(root).as_posix()
    try:
        manifest = read_manifest(path, contract)
    except ContractError as error:
        return Folder(contract=contract, name=name, path=path, manifest=None, problem=str(error))
    changed = tuple(
        source
        for source, digest in sorted(manifest.inputs.items())
        if _changed(root, source, digest)
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
    """Whether the input named by its path in the workspace is another one now."""
    folder = root / source
    if source.split("/")[0] not in _TOPS:
        return False  # an outside file, named for the record
    try:
        return input_digest(folder) != digest
    except ContractError:
        return True


def find_outdated(folders: list[Folder]) -> dict[str, tuple[str, ...]]:
    """The inputs of each folder that have changed since, or that are outdated themselves, by its name."""
    found: dict[str, tuple[str, ...]] = {}
    for folder in folders:  # in the order of the pipeline: inputs come first
        inputs = folder.manifest.inputs if folder.manifest is not None else {}
        inherited = [name for name in inputs if name in found]
        names = dict.fromkeys([*folder.stale, *inherited])
        if names and not CONTRACTS[folder.contract].trained_once:
            found[folder.name] = tuple(names)
    return found
