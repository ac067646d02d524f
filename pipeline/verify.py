"""`pipeline verify`: prove that a workspace is what its manifests say. Floor 5.

Checked: every manifest is readable and of our version; every file it names is there, with its size and
sha256; every table has its rows; the ledger holds what the crawl said; *rows in = kept + rejected +
failed* at each stage; every input is still the one that a stage was made from.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config import StageConfig, option
from pipeline.contracts import COUNT_LAWS, URL_STATES, FileEntry, StageReport
from pipeline.errors import ContractError, PipelineError
from pipeline.inventory import Folder, find_folders
from pipeline.road import Call
from pipeline.storage import LEDGER_NAME, Workspace, sha256_file


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """What to prove."""

    stale: bool = option(True, "Count a folder made from older inputs as a problem.")


def show_verify(config: VerifyConfig, call: Call) -> StageReport:
    """Check everything and print what was found.

    Raises ContractError if anything is not as promised.
    """
    folders = find_folders(Workspace(config.workspace).open().root)
    total = sum(len(folder.manifest.files) for folder in folders if folder.manifest)
    rows, problems, files = [], [], 0
    with call.screen.progress("verify") as progress:
        for folder in folders:
            found = list(check_folder(folder, stale=config.stale))
            problems += found
            files += len(folder.manifest.files) if folder.manifest else 0
            progress(files, total)
            rows.append((folder.name, "ok" if not found else "; ".join(found)))
    call.screen.table("Verified", ("folder", "result"), rows)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ContractError(f"{problems[0]}{more}")
    return StageReport(
        stage="verify", outcome="done", counts={"folders": len(folders), "files": files}
    )


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
