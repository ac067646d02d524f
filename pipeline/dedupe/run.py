"""`pipeline dedupe`: inspect every scraped image once and decide which are kept, which rejected, and why.

Reads `raw/ledger.sqlite` (its view `items`) and the bytes in `raw/segments/`. Writes `dedupe/kept/`,
`dedupe/rejected/`, `dedupe/captions.parquet`, `dedupe/inspections.parquet`, a dataset card and the manifest.
It also works on an unfinished crawl: rows without bytes are rejected as `not_fetched`, and a later run
inspects only new images. The tables depend only on the ledger and the options, not on the history or the
number of workers.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping

import pyarrow as pa

from pipeline.core import ownership
from pipeline.core.artifact import Artifact, find_artifact
from pipeline.core.config import resolved
from pipeline.core.contracts import CAPTIONS, FileEntry, Manifest, StageReport
from pipeline.core.errors import ContractError
from pipeline.core.image_decode import RASTER, has_decoder
from pipeline.core.integrity import described_files
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import (
    file_entry,
    find_manifest,
    storage_error,
    table_schema,
    write_bytes,
)
from pipeline.core.workspace import Workspace
from pipeline.dedupe.card import CARD, write_card
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.decisions import decide
from pipeline.dedupe.inspecting import inspect_new
from pipeline.dedupe.inspection import INSPECTION_VERSION
from pipeline.dedupe.masks import measure_masks
from pipeline.dedupe.rows import load_rows
from pipeline.dedupe.store import InspectionStore, remove_store
from pipeline.dedupe.summary import Summary
from pipeline.dedupe.tables import as_batches, read_old_inspections, write_inspections, write_table
from pipeline.dedupe.writing import caption_rows, write_images

log = logging.getLogger(__name__)

_WORK = "work.sqlite"
_INSPECTIONS = "inspections.parquet"
_CAPTIONS = "captions.parquet"
_SCRATCH = "rows.partial"


def run(config: DedupeConfig, progress: Progress = no_progress) -> StageReport:
    """Write the tables of the workspace, or report that they are up to date.

    Raises ContractError if the ledger can't be read or a segment has lost bytes (the message names the
    segment), WorkspaceError for a folder that is not ours, StorageError if writing fails.
    """
    # Arrow's own allocator keeps freed memory: 45 MB more at the peak.
    pa.set_memory_pool(pa.system_memory_pool())
    workspace, inspected = Workspace(config.workspace), 0
    folder = workspace.dedupe
    ownership.claim(folder, "dedupe")
    folder.mkdir(parents=True, exist_ok=True)
    with InspectionStore(folder / _WORK, workspace.ledger) as store:
        inputs = _inputs(workspace, store)
        out = find_artifact(folder, "dedupe", config=resolved(config), inputs=inputs)
        if out.manifest is None or _has_new_decoder(out.manifest):
            out.reopen()
            inspected = _make_tables(out, config, store, progress)
    remove_store(folder / _WORK)
    return out.report(details={"inspected": inspected})


def why_run(config: DedupeConfig, manifest: Manifest) -> str | None:
    """Why the tables are outdated although the raw store's content is not: it may have been moved."""
    workspace = Workspace(config.workspace)
    with InspectionStore(None, workspace.ledger) as store:
        found = _inputs(workspace, store)
    return "the ledger has changed since" if found != dict(manifest.inputs) else None


def _inputs(workspace: Workspace, store: InspectionStore) -> dict[str, str]:
    """The inputs of the tables: the content of the raw store, and the locations of its bytes.

    The raw store's own digest covers what was scraped, in any order; ours also covers the locations in the
    segments, which the tables repeat. An unfinished crawl has only ours. `raster` identifies how images are
    decoded and inspected.
    """
    rows = store.digest_rows()
    raw = find_manifest(workspace.raw, "raw")
    if raw is None or "content" not in raw.details:
        log.warning(
            "The crawl is not finished: using the rows that %s has so far.", workspace.ledger
        )
        content = rows
    else:
        content = str(raw.details["content"])
    return {"raw": content, "ledger": rows, "raster": f"{RASTER}; {INSPECTION_VERSION}"}


def _has_new_decoder(manifest: Manifest) -> bool:
    """Whether a decoder that was missing is installed now."""
    return any(has_decoder(name) for name in manifest.details.get("missing_decoders", ()))


def _make_tables(
    out: Artifact, config: DedupeConfig, store: InspectionStore, progress: Progress
) -> int:
    """Write the tables and their manifest; returns the number of images inspected for them."""
    folder = out.folder
    described = described_files(folder).get(_INSPECTIONS)
    for batch in read_old_inspections(folder / _INSPECTIONS, described):
        store.add_missing(batch)
    new = inspect_new(store, config, progress)
    summary = Summary()
    try:
        files = _write_tables(config, store, summary)
    except OSError as error:
        raise storage_error(error, folder / _SCRATCH) from error
    finally:
        shutil.rmtree(folder / _SCRATCH, ignore_errors=True)
    inspected = write_inspections(folder / _INSPECTIONS, store.read_inspections())
    counts = summary.counts()
    check_law(store.count_rows(), counts)
    _warn_of_empty_split(summary, config.val_fraction)
    write_bytes(folder / CARD, write_card(counts, summary.splits).encode())
    inspections = file_entry(folder / _INSPECTIONS, folder, inspected)
    out.finish(counts=counts, files=(*files, inspections, CARD), details=summary.details())
    return new


def _warn_of_empty_split(summary: Summary, val_fraction: float) -> None:
    """Warn if the option asks for a split that received no image."""
    kept, asked = summary.splits.total(), {"train": 1 - val_fraction, "val": val_fraction}
    for split in (split for split, share in asked.items() if share and not summary.splits[split]):
        if kept:
            log.warning(
                "--val-fraction %g leaves no image in the split %s: all %d kept images are in the other "
                "one. Captions with similar images always share a split; try another fraction.",
                val_fraction,
                split,
                kept,
            )


def _write_tables(
    config: DedupeConfig, store: InspectionStore, summary: Summary
) -> list[FileEntry]:
    """Write kept rows, rejected rows and captions, and fill the summary."""
    folder = Workspace(config.workspace).dedupe
    rows = load_rows(
        store.read_rows(),
        folder / _SCRATCH,
        drop_masked=config.masked == "drop",
        drop_cut=config.cut == "drop",
    )
    with rows:
        decisions = decide(rows, measure_masks(store.read_masked()), config)
        files = write_images(folder, decisions, summary)
        summary.conclude(decisions)
    schema = table_schema(CAPTIONS)
    captions = as_batches(caption_rows(store.read_captions(), decisions), schema)
    written = write_table(folder / _CAPTIONS, schema, captions)
    return [*files, file_entry(folder / _CAPTIONS, folder, written)]


def check_law(in_ledger: int, counts: Mapping[str, int]) -> None:
    """Raise ContractError unless rows in the ledger = kept + rejected + failed."""
    written = counts["kept"] + counts["rejected"] + counts["failed"]
    if not in_ledger == counts["rows"] == written:
        raise ContractError(
            f"The ledger has {in_ledger} rows, the tables {written}: it changed while this stage "
            "read it. Wait until the crawl has stopped, then run the command again."
        )
