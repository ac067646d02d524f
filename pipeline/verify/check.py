"""Check every folder of a workspace: is it damaged, unfinished or outdated?"""

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
    from scrapers.rawstore.originals_check import Original
    from scrapers.rawstore.raw_check import Segment

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
    segments: tuple[Segment, ...] = ()
    originals: tuple[Original, ...] = ()
    if folder.contract == "raw":
        from pipeline.verify.raw import check_raw

        raw = check_raw(folder)
        faults += raw.faults
        segments, originals = raw.segments, raw.originals
    if folder.contract == "run" and folder.manifest is None:
        from pipeline.verify.checkpoints import check_checkpoints

        faults += check_checkpoints(folder)
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
        segments=segments,
        originals=originals,
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
    look = _content_checks().get(folder.contract)
    if look is None:
        return [], []
    try:
        return look(folder, workspace, images)
    except PipelineError as error:
        found = f"doesn't match the files: {explain(error)}"
        return [Fault(folder=folder.name, file=MANIFEST_NAME, found=found)], []


def _content_checks() -> Mapping[str, Callable[[Folder, Workspace, int], Found]]:
    from pipeline.verify.codes import check_codes
    from pipeline.verify.shards import check_shards
    from pipeline.verify.tables import check_tables

    return {
        "dedupe": lambda folder, _workspace, _images: (list(check_tables(folder)), []),
        "codes": check_codes,
        "shards": check_shards,
    }
