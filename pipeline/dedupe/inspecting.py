"""Inspect new images in worker processes."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.engine import map_parts
from pipeline.core.estimate import Estimate, announce
from pipeline.core.progress import NOW, Progress
from pipeline.core.workspace import Workspace
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.inspection import Inspection, InspectionPart, inspect_part
from pipeline.dedupe.store import InspectionStore
from pipeline.dedupe.tables import in_chunks

log = logging.getLogger(__name__)

PART_IMAGES = 64
# No valid image takes this long; a hanging decoder must not hang the stage.
PART_TIMEOUT_S = 900.0
IMAGE_TIMEOUT_S = 120.0
# Of a row: in the tables and, while they are made, in scratch files; in memory (docs/benchmarks.md).
_ROW_BYTES, _ROW_MEMORY_BYTES, _MEMORY_BYTES = 600, 420, 140_000_000


def inspect_new(store: InspectionStore, config: DedupeConfig, progress: Progress) -> int:
    """Inspect the images that the store has no inspection of, and return their number.

    Each finished part is stored immediately.
    """
    store.forget_outdated(max_pixels=config.max_pixels)
    total = store.find_work()
    progress = announce(_estimate(store, config, total), progress, force=config.force)
    progress(0, total, {NOW: "starting the decoders"})
    parts = _cut(store, Workspace(config.workspace).segments, config.max_pixels)
    done, faults = 0, Counter[str]()
    for result in map_parts(
        inspect_part,
        parts,
        workers=config.workers,
        timeout_s=PART_TIMEOUT_S,
        engine=config.where(),
    ):
        if result.failure is None:
            found = result.result
        else:
            log.warning(
                "A decoder process failed (%s): trying its images one by one.", result.failure
            )
            found = inspect_apart(result.part, workers=config.workers)
        store.add(found)
        done += len(found)
        faults.update(i.status for i in found if i.status != "ok")
        progress(done, total, dict(faults))
    return done


def _estimate(store: InspectionStore, config: DedupeConfig, new: int) -> Estimate:
    rows = store.count_rows()
    return Estimate(
        stage="dedupe",
        work=f"inspect {new:,} new images, decide on all {rows:,} rows",
        folder=Workspace(config.workspace).dedupe,
        disk_bytes=rows * _ROW_BYTES,
        memory_bytes=_MEMORY_BYTES + rows * _ROW_MEMORY_BYTES,
    )


def inspect_apart(part: InspectionPart, *, workers: int | None) -> list[Inspection]:
    """Inspect the images of a part whose process died one by one, to find the one that killed it.

    Always on this machine, which can say how a process died.
    """
    singles = [part._replace(places=(place,)) for place in part.places]
    found: list[Inspection] = []
    for result in map_parts(inspect_part, singles, workers=workers, timeout_s=IMAGE_TIMEOUT_S):
        if result.failure is None:
            found += result.result
        else:
            sha256 = result.part.places[0].sha256
            found.append(Inspection(sha256, "decoder_crashed", result.failure))
    return found


def _cut(store: InspectionStore, segments: Path, max_pixels: int) -> Iterator[InspectionPart]:
    for places in in_chunks(store.read_work(), PART_IMAGES):
        yield InspectionPart(segments, max_pixels, tuple(places))
