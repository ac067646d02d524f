"""What every folder promises: its files, its rows, its counts, its inputs."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.contracts import COUNT_LAWS, URL_STATES, FileEntry
from pipeline.errors import PipelineError
from pipeline.inventory import Folder
from pipeline.storage import sha256_file
from pipeline.workspace import LEDGER_NAME


def check_folder(folder: Folder, *, stale: bool = True) -> Iterator[str]:
    """Yield a sentence for each promise that the folder breaks."""
    if folder.manifest is None:
        yield str(folder.problem)
        return
    for entry in folder.manifest.files:
        yield from _check_file(folder, entry)
    yield from _check_law(folder)
    if folder.contract == "raw":
        yield from _check_ledger(folder)
    if stale and folder.stale:
        yield f"{folder.name} was made from an older {', '.join(folder.stale)}: run its stage again"


def _check_file(folder: Folder, entry: FileEntry) -> Iterator[str]:
    path = folder.path / entry.path
    if not path.is_file():
        yield f"{folder.name}/{entry.path} is missing"
        return
    if path.stat().st_size != entry.bytes:
        yield f"{folder.name}/{entry.path} has {path.stat().st_size} bytes, expected {entry.bytes}"
        return
    if sha256_file(path) != entry.sha256:
        yield f"{folder.name}/{entry.path} has another sha256 than its manifest: its bytes changed"
        return
    if path.suffix == ".parquet" and entry.rows is not None:
        import pyarrow.parquet as pq

        rows = pq.read_metadata(path).num_rows
        if rows != entry.rows:
            yield f"{folder.name}/{entry.path} has {rows} rows, expected {entry.rows}"


def _check_ledger(folder: Folder) -> Iterator[str]:
    from scrapers.summary import read_ledger

    assert folder.manifest is not None
    name = f"{folder.name}/{LEDGER_NAME}"
    try:
        content, found = read_ledger(folder.path / LEDGER_NAME)
    except PipelineError as error:
        yield f"{name} can't be proved: {error}"
        return
    if content != folder.manifest.details.get("content"):
        yield f"{name} has another content than its manifest says: it was changed or replaced"
    for state in URL_STATES:
        expected = folder.manifest.counts.get(state, 0)
        # What was planned and not asked for is pending in the manifest, and in no row.
        if found[state] > expected or (found[state] < expected and state != "pending"):
            yield f"{name} has {found[state]} URLs that are {state}, expected {expected}"


def _check_law(folder: Folder) -> Iterator[str]:
    assert folder.manifest is not None
    law = COUNT_LAWS.get(folder.contract)
    if law is None:
        return
    counts = folder.manifest.counts
    total, parts = counts.get(law.total), [counts.get(part, 0) for part in law.parts]
    if total != sum(parts):
        shown = " + ".join(
            f"{part} {number}" for part, number in zip(law.parts, parts, strict=True)
        )
        yield f"{folder.name}: {law.total} {total} is not {shown}"
