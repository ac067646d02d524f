"""Repairs of what can be made again: fetched images, and everything computed from them."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.core import ownership
from pipeline.core.contracts import SPLITS, FileEntry
from pipeline.core.errors import PipelineError
from pipeline.core.integrity import find_fault
from pipeline.core.storage import file_entry, write_bytes
from pipeline.core.workspace import LEDGER_NAME
from pipeline.verify.work import FolderRepair
from pipeline.webdata.index import INDEX_NAME

log = logging.getLogger(__name__)


def repair_raw(work: FolderRepair) -> None:
    """Mark lost images in the ledger, so that they are fetched again."""
    from scrapers.rawstore.mending import mend_segments
    from scrapers.rawstore.raw_check import Segment

    path, segments = work.folder.path, work.checked.lost(Segment)
    if reason := _why_not_repairable(work):
        work.give_up(reason)
        return
    for file in ("page.html", "page.json"):
        if file in work.files:
            work.delete(file)
    work.make_unfinished("the scrape is unfinished: it fetches or reads what is lost")
    _forget_originals(work)
    if not segments:
        return
    mended = mend_segments(path, segments)
    for segment in segments:
        what = f"{len(segment.lost)} images are lost; the others were moved to a new segment"
        work.note(f"segments/{segment.name}", what)
    old = f", and {mended.versions_lost} earlier versions are lost" if mended.versions_lost else ""
    work.repairs.done.append(f"raw: {mended.lost} images wait to be fetched again{old}")
    work.add_commands_of_readers()  # their tables hold the location of each image


def _forget_originals(work: FolderRepair) -> None:
    """Have the images of files outside the workspace that were moved or changed read again."""
    from scrapers.rawstore.mending import forget_originals
    from scrapers.rawstore.originals_check import Original

    originals = work.checked.lost(Original)
    if not originals:
        return
    waiting = forget_originals(work.folder.path, (each.number for each in originals))
    work.repairs.done.append(
        f"raw: {waiting} images of {len(originals)} files outside the workspace wait to be read again"
    )
    work.add_commands_of_readers()


def sweep_raw(work: FolderRepair) -> None:
    """Delete segments that a killed repair had already written again."""
    from scrapers.rawstore.mending import sweep_segments

    for name in sweep_segments(work.folder.path):
        work.note(f"segments/{name}", "deleted: an earlier repair has written its images again")


def _why_not_repairable(work: FolderRepair) -> str | None:
    from scrapers.rawstore.raw_check import Segment

    path = work.folder.path
    for fault in work.checked.faults:
        if fault.file == LEDGER_NAME:
            return f"{fault.file} {fault.found}. {fault.remedy}"
    if any(segment.bytes is None for segment in work.checked.lost(Segment)) and not any(
        (path / "segments").glob("*.tar")
    ):
        return (
            f"none of its segments is in {path / 'segments'}: is a disk not mounted? Restore them, or "
            f"move {path} away to fetch everything again."
        )
    return None


def drop_damaged(work: FolderRepair) -> None:
    """Delete the damaged files of a folder whose stage makes them again, and mark it as unfinished."""
    for file in work.files:
        work.delete(file)
    verified = _keep_verified(work) if work.head_is_damaged else []
    work.make_unfinished("the folder is unfinished", verified)


def _keep_verified(work: FolderRepair) -> list[FileEntry]:
    """Without a manifest: keep tables whose own checksums match, delete the others."""
    path, verified = work.folder.path, []
    for name in ownership.files_by_name(path, work.folder.contract):
        entry = describe_table(path, name) if name.endswith(".parquet") else None
        if entry is None:
            work.delete(name)
        else:
            verified.append(entry)
    return verified


def describe_table(folder: Path, name: str) -> FileEntry | None:
    """The manifest entry of a table whose own checksums match, None if they don't."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from pipeline.core.storage import has_checksums

    try:
        with pq.ParquetFile(folder / name, page_checksum_verification=True) as file:
            rows = sum(len(batch) for batch in file.iter_batches(4096))
            whole = has_checksums(file.schema_arrow)
    except (OSError, ValueError, pa.ArrowException):
        return None
    return file_entry(folder / name, folder, rows=rows) if whole else None


def repair_shards(work: FolderRepair) -> None:
    """Have damaged shards written again, each with the samples that its headers name."""
    files = [file for file in work.files if file != INDEX_NAME or not _restore_index(work)]
    if not files and not work.head_is_damaged:
        return
    for file in files:
        if file.split("/")[0] in SPLITS:
            work.note(file, "is written again with the same samples")
        else:
            work.delete(file)
    work.make_unfinished("the folder is unfinished")


def _restore_index(work: FolderRepair) -> bool:
    """Rebuild the original index from the shards; return whether that was possible."""
    from pipeline.shard.rebuild import rebuild_index

    manifest, path = work.folder.manifest, work.folder.path
    entry = next((entry for entry in work.listed if entry.path == INDEX_NAME), None)
    if manifest is None or entry is None or find_fault(path, entry) is None:
        return False
    try:
        write_bytes(path / INDEX_NAME, rebuild_index(work.root, path, manifest))
    except PipelineError as error:
        log.info("%s is not rebuilt from its shards: %s", path / INDEX_NAME, error)
        return False
    work.note(INDEX_NAME, "rebuilt from the shards")
    return True
