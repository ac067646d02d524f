"""Turn rows and decisions into the rows of the tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.contracts import KEPT, REJECTED, FileEntry
from pipeline.dedupe.captions import find_defect
from pipeline.dedupe.decisions import Decisions
from pipeline.dedupe.rows import caption_of, find_fault
from pipeline.dedupe.store import Row
from pipeline.dedupe.summary import Summary
from pipeline.dedupe.tables import TableWriter
from pipeline.storage import empty_folder


def write_images(
    folder: Path, rows: Iterable[Row], decisions: Decisions, summary: Summary
) -> list[FileEntry]:
    """Write `kept/` and `rejected/`, counting as it goes."""
    empty_folder(folder / "kept")
    empty_folder(folder / "rejected")
    with (
        TableWriter(folder / "kept", KEPT) as kept,
        TableWriter(folder / "rejected", REJECTED) as rejected,
    ):
        for index, row in enumerate(rows):
            reason = decisions.reason(index)
            if reason is None:
                kept.add(_kept_row(row, index, decisions))
            else:
                rejected.add(_rejected_row(row, index, reason, decisions))
            summary.add(row, reason, decisions.split(index))
    return [*kept.entries(folder), *rejected.entries(folder)]


def caption_rows(
    captions: Iterable[tuple[str, str, str]], decisions: Decisions
) -> Iterator[dict[str, Any]]:
    """The rows of `captions.parquet` from (caption id, section, text), sorted; bad ones are left out."""
    facts = decisions.captions
    for caption_id, found in groupby(captions, key=lambda each: each[0]):
        shown = list(found)
        caption = caption_of(shown[0][2])
        if find_defect(caption.caption) is not None:
            continue
        at = int(np.searchsorted(facts.numbers, np.uint64(caption.number)))
        yield {
            "caption_id": caption_id,
            "caption": caption.caption,
            "caption_normalized": caption.normalized,
            "sections": sorted({section for _, section, _ in shown}),
            "images": int(facts.images[at]),
            "ranks": int(facts.ranks[at]),
            "split": "val" if facts.is_val[at] else "train",
        }


def _image_columns(row: Row) -> dict[str, Any]:
    caption = caption_of(row.caption)
    return {
        "key": row.key,
        "url": row.url,
        "source": row.source,
        "section": row.section,
        "caption_id": caption.caption_id,
        "caption": caption.caption,
        "rank": row.rank,
        "segment": row.segment,
        "offset": row.offset,
        "bytes": row.length,
        "bytes_sha256": row.sha256,
    }


def _kept_row(row: Row, index: int, decisions: Decisions) -> dict[str, Any]:
    columns = _image_columns(row)
    given = 0
    if row.masked:
        given = decisions.masked_rows(row.section, columns["caption_id"], row.height or 0)
    return columns | {
        "caption_normalized": caption_of(row.caption).normalized,
        "format": row.format,
        "width": row.width,
        "height": row.height,
        "mode": row.mode,
        "has_alpha": bool(row.has_alpha),
        "pixel_sha256": row.pixel_sha256,
        "phash": (row.phash or 0) % 2**64,
        "mean_red": row.mean_red,
        "mean_green": row.mean_green,
        "mean_blue": row.mean_blue,
        "is_blank": bool(row.is_blank),
        "masked_rows": given,
        "cluster": decisions.rows.key(int(decisions.cluster[index])),
        "split": decisions.split(index),
    }


def _rejected_row(row: Row, index: int, reason: str, decisions: Decisions) -> dict[str, Any]:
    columns = _image_columns(row)
    if reason in _LIKENESS:
        other = decisions.rows.key(int(decisions.stands_for[index]))
        return columns | {"reason": reason, "detail": _LIKENESS[reason], "stands_for": other}
    fault = find_fault(row, drop_masked=True)
    assert fault is not None
    return columns | {"reason": reason, "detail": fault[1], "stands_for": None}


_LIKENESS = {
    "duplicate_bytes": "the same bytes as a better row",
    "duplicate_pixels": "the same pixels as a better row, in another file",
    "near_duplicate": "within the radius of a better row",
}
