"""Check the files of a run; the checkpoints of an unfinished one against their own lists of files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ContractError
from pipeline.core.inventory import Folder
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file
from pipeline.core.storage import sha256_file
from pipeline.verify.faults import Fault
from pipeline.verify.folders import check_files

_INFO = "checkpoint.json"
_NAME = re.compile(r"step-\d{6,}")


def find_checkpoints(run: Path) -> list[Path]:
    """The checkpoint folders of a run, by step."""
    found = (p for p in (run / "checkpoints").glob("step-*") if _NAME.fullmatch(p.name))
    return sorted((path for path in found if path.is_dir()), key=lambda p: int(p.name[5:]))


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """The files of a checkpoint and their sha256, as listed in `checkpoint.json`."""

    files: Mapping[str, str]


def check_run(folder: Folder) -> Iterator[Fault]:
    """Yield the damaged files of a run."""
    yield from check_files(folder)
    for path in find_checkpoints(folder.path) if folder.manifest is None else ():
        for name, found in _check(path):
            file = (path / name).relative_to(folder.path).as_posix()
            yield Fault(folder=folder.name, file=file, found=found)


def _check(path: Path) -> Iterator[tuple[str, str]]:
    try:
        files = parse_json_file(path / _INFO, _Listed).files
    except ContractError as error:
        yield _INFO, f"can't be read ({error})"
        return
    for name, sha256 in sorted(files.items()):
        try:
            if sha256_file(path_inside(path, name, source=path / _INFO)) != sha256:
                yield name, f"is not the file that {_INFO} describes (sha256 differs)"
        except (OSError, ContractError) as error:
            yield name, f"can't be read ({error})"
