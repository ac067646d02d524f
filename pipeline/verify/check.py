"""Every folder of a workspace looked at in turn: what is damaged, unfinished, outdated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.errors import PipelineError
from pipeline.core.inventory import Folder, find_folders, find_outdated
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import MANIFEST_NAME
from pipeline.core.workspace import Workspace
from pipeline.verify.faults import Checked, Facts, Fault, State
from pipeline.verify.folders import check_folder, explain, why_unfinished

if TYPE_CHECKING:
    from scrapers.rawstore.raw_check import Segment

Found = tuple[list[Fault], list[Facts]]


def check_workspace(
    root: Path, pictures: int = 16, progress: Progress = no_progress
) -> Iterator[Checked]:
    """Check all folders in the order of the pipeline; `pictures` of each set of codes are decoded."""
    folders = find_folders(root)
    outdated = find_outdated(folders)
    total = sum(len(folder.manifest.files) for folder in folders if folder.manifest)
    done = 0
    for folder in folders:
        yield check_one(folder, Workspace(root), pictures, outdated.get(folder.name, ()))
        done += len(folder.manifest.files) if folder.manifest else 0
        progress(done, total)


def check_one(
    folder: Folder, workspace: Workspace, pictures: int = 0, outdated: tuple[str, ...] = ()
) -> Checked:
    """Check one folder; `outdated` are its inputs that have changed since."""
    faults = list(check_folder(folder))
    segments: tuple[Segment, ...] = ()
    if folder.contract == "raw":
        from pipeline.verify.raw import check_raw

        raw = check_raw(folder)
        faults += raw.faults
        segments = raw.segments
    if folder.contract == "run" and folder.manifest is None:
        from pipeline.verify.checkpoints import check_checkpoints

        faults += check_checkpoints(folder)
    facts: list[Facts] = []
    if not faults and folder.manifest is not None:
        faults, facts = look_inside(folder, workspace, pictures)
    notes = list(_notes(folder, outdated))
    return Checked(
        folder=folder,
        state=_state(folder, faults, outdated),
        faults=tuple(faults),
        notes=tuple(notes),
        facts=tuple(facts),
        segments=segments,
    )


def _state(folder: Folder, faults: list[Fault], outdated: tuple[str, ...]) -> State:
    if faults:
        return "damaged"
    if folder.manifest is None:
        return "unfinished"
    return "outdated" if outdated else "ok"


def _notes(folder: Folder, outdated: tuple[str, ...]) -> Iterator[str]:
    unfinished = why_unfinished(folder)
    if unfinished is not None:
        yield unfinished
    if outdated:
        yield f"made from an older {', '.join(outdated)}"
    if folder.outgrown:
        yield f"{', '.join(folder.outgrown)} has grown since"


def look_inside(folder: Folder, workspace: Workspace, pictures: int) -> Found:
    """What is wrong inside of a folder whose files are whole, and what was measured there."""
    look = _inspectors().get(folder.contract)
    if look is None:
        return [], []
    try:
        return look(folder, workspace, pictures)
    except PipelineError as error:
        found = f"doesn't fit what is there: {explain(error)}"
        return [Fault(folder=folder.name, file=MANIFEST_NAME, found=found)], []


def _inspectors() -> Mapping[str, Callable[[Folder, Workspace, int], Found]]:
    from pipeline.verify.codes import look_into_codes
    from pipeline.verify.shards import look_into_shards
    from pipeline.verify.tables import look_into_tables

    return {
        "dedupe": lambda folder, _workspace, _pictures: (list(look_into_tables(folder)), []),
        "codes": look_into_codes,
        "shards": look_into_shards,
    }
