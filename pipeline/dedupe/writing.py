"""Turn rows and decisions into table rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.captions import caption_of, find_defect, usable_captions
from pipeline.core.contracts import KEPT, REJECT_REASONS, REJECTED, FileEntry
from pipeline.core.ownership import own_files
from pipeline.dedupe.column_file import POSITION, Positions32
from pipeline.dedupe.decisions import Decisions
from pipeline.dedupe.rows import KEPT_CODE, reason_code
from pipeline.dedupe.summary import Summary
from pipeline.dedupe.tables import TableWriter

_LIKENESS = {
    "duplicate_bytes": "the same bytes as a better row",
    "duplicate_pixels": "the same pixels as a better row, in another file",
    "near_duplicate": "within the radius of a better row",
}
Columns = Mapping[str, list[Any] | pa.Array]

_DETAILS = {reason_code(reason): detail for reason, detail in _LIKENESS.items()}


def write_images(folder: Path, decisions: Decisions, summary: Summary) -> list[FileEntry]:
    """Write `kept/` and `rejected/`, and count their rows."""
    for name in own_files(folder, "dedupe"):
        if name.startswith(("kept/", "rejected/")):
            (folder / name).unlink()
    with (
        TableWriter(folder / "kept", KEPT) as kept,
        TableWriter(folder / "rejected", REJECTED) as rejected,
    ):
        start = 0
        for batch in decisions.rows.images():
            at = np.arange(start, start + len(batch), dtype=POSITION)
            start += len(batch)
            is_kept = decisions.rows.reason[at] == KEPT_CODE
            images = batch.filter(pa.array(is_kept))
            used = _with_columns(images, _kept_columns(images, at[is_kept], decisions), kept.schema)
            kept.add(used)
            summary.add_kept(used, masked=sum(images["masked"].to_pylist()))
            images = batch.filter(pa.array(~is_kept))
            columns = _rejected_columns(images, at[~is_kept], decisions)
            unused = _with_columns(images, columns, rejected.schema)
            rejected.add(unused)
            summary.add_rejected(unused)
    return [*kept.entries(folder), *rejected.entries(folder)]


def caption_rows(
    captions: Iterable[tuple[str, str, str]], decisions: Decisions
) -> Iterator[tuple[Any, ...]]:
    """The rows of `captions.parquet` from sorted (caption id, section, text), without bad captions."""
    facts = decisions.captions
    for caption_id, found in groupby(captions, key=lambda each: each[0]):
        shown = list(found)
        caption = caption_of(shown[0][2])
        if find_defect(caption.caption) is not None:
            continue
        at = int(np.searchsorted(facts.numbers, np.uint64(caption.number)))
        yield (
            caption_id,
            caption.caption,
            caption.normalized,
            sorted({section for _, section, _ in shown}),
            int(facts.images[at]),
            int(facts.ranks[at]),
            "val" if facts.is_val[at] else "train",
        )


def _with_columns(images: pa.RecordBatch, more: Columns, schema: pa.Schema) -> pa.RecordBatch:
    """The columns of `schema`, taken from `more` or from `images`."""
    arrays = [
        pa.array(more[field.name], field.type) if field.name in more else images[field.name]
        for field in schema
    ]
    return pa.record_batch(arrays, schema=schema)


def _kept_columns(images: pa.RecordBatch, at: Positions32, decisions: Decisions) -> Columns:
    is_val = decisions.captions.is_val[decisions.caption[at]]
    leader = decisions.cluster[at]
    cluster = images["key"].to_pylist()
    for n in np.flatnonzero(leader != at):
        cluster[n] = decisions.rows.key(int(leader[n]))
    return {
        "captions": _captions(images, at, decisions),
        "masked_rows": _masked_rows(images, decisions),
        "cluster": cluster,
        "split": np.where(is_val, "val", "train").tolist(),
    }


def _captions(images: pa.RecordBatch, at: Positions32, decisions: Decisions) -> pa.Array:
    """The captions of each row with those that it gains."""
    if not decisions.gained:
        return images["captions"]
    gained = [decisions.gained.get(row, ()) for row in at.tolist()]
    own = images["captions"].to_pylist()
    both = [usable_captions([*o, *g]) for o, g in zip(own, gained, strict=True)]
    return pa.array([[each.caption for each in found] for found in both], images["captions"].type)


def _masked_rows(images: pa.RecordBatch, decisions: Decisions) -> list[int]:
    given = [0] * len(images)
    for n in np.flatnonzero(images["masked"].to_numpy(zero_copy_only=False)):
        section, caption_id, height = (
            images[name][int(n)].as_py() for name in ("section", "caption_id", "height")
        )
        given[n] = decisions.masked_rows(section, caption_id, height)
    return given


def _rejected_columns(images: pa.RecordBatch, at: Positions32, decisions: Decisions) -> Columns:
    codes = decisions.rows.reason[at].tolist()
    faults = images["detail"].to_pylist()
    return {
        "reason": [REJECT_REASONS[code - 1] for code in codes],
        "detail": [_DETAILS.get(code, fault) for code, fault in zip(codes, faults, strict=True)],
        "stands_for": [
            decisions.rows.key(int(other)) if code in _DETAILS else None
            for code, other in zip(codes, decisions.stands_for[at], strict=True)
        ],
    }
