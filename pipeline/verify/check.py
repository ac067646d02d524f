"""Check every folder of a workspace: is it damaged, unfinished or outdated?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.errors import PipelineError
from pipeline.core.inventory import Folder, find_folders, find_outdated
from pipeline.core.progress import Progress, no_progress
from pipeline.core.stage import load_function
from pipeline.core.stages import stage_of
from pipeline.core.storage import MANIFEST_NAME
from pipeline.core.workspace import Workspace
from pipeline.verify.faults import Checked, Facts, Fault, State
from pipeline.verify.folders import check_folder, explain, why_unfinished

Found = tuple[list[Fault], list[Facts]]


def check_workspace(
    root: Path, images: int = 16, progress: Progress = no_progress
) -> Iterator[Checked]:
    """Check all folders in the order of the pipeline; decode `images` images of each set of codes."""
    folders = find_folders(root)
    outdated = find_outdated(folders)
    total = sum(len(folder.manifest.files) for folder in folders if folder.manifest)
    done = 0
    for folder in folders:
        yield check_one(folder, Workspace(root), images, outdated.get(folder.name, ()))
        done += len(folder.manifest.files) if folder.manifest else 0
        progress(done, total)


def check_one(
    folder: Folder, workspace: Workspace, images: int = 0, outdated: tuple[str, ...] = ()
) -> Checked:
    """Check one folder; `outdated` are its inputs that have changed since it was made."""
    faults = list(check_folder(folder))
    facts: list[Facts] = []
    if not faults and folder.manifest is not None:
        faults, facts = check_contents(folder, workspace, images)
    notes = list(_notes(folder, outdated))
    return Checked(
        folder=folder,
        state=_state(folder, faults, outdated),
        faults=tuple(faults),
        notes=tuple(notes),
        facts=tuple(facts),
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


def check_contents(folder: Folder, workspace: Workspace, images: int) -> Found:
    """Faults and measurements inside a folder whose files are undamaged."""
    check = stage_of(folder.contract).check
    if check is None:
        return [], []
    try:
        found: Found = load_function(check)(folder, workspace, images)
        return found
    except PipelineError as error:
        words = f"doesn't match the files: {explain(error)}"
        return [Fault(folder=folder.name, file=MANIFEST_NAME, found=words)], []
