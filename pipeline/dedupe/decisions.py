"""Decide over all rows at once: who stands for whom, which cluster, which split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contracts import REJECT_REASONS, Split
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.masks import HALF, measure_masks
from pipeline.dedupe.rows import KEPT_CODE, Rows
from pipeline.dedupe.splits import draw_val, split_captions
from pipeline.dedupe.store import Store
from pipeline.dedupe.survivors import Indices, order_survivors, reject_exact_duplicates


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What is known of each caption, in columns sorted by its number."""

    numbers: npt.NDArray[np.uint64]
    images: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.uint64]
    is_val: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What was decided of each row; index i is the i-th row by key."""

    rows: Rows
    stands_for: Indices
    cluster: Indices
    is_val: npt.NDArray[np.bool_]
    masks: Mapping[tuple[str, str], int]
    captions: CaptionFacts
    val_fraction: float

    def reason(self, index: int) -> str | None:
        """Why a row is rejected, None if it is kept."""
        code = int(self.rows.table["reason"][index])
        return None if code == KEPT_CODE else REJECT_REASONS[code - 1]

    def split(self, index: int) -> Split:
        """The side on which a row stands."""
        return "val" if self.is_val[index] else "train"

    def masked_rows(self, section: str, caption_id: str, height: int) -> int:
        """Rows of pixels that the prompt gave of a masked image."""
        return self.masks.get((section, caption_id), HALF) * height // (2 * HALF)


def decide(rows: Rows, store: Store, config: DedupeConfig) -> Decisions:
    """Reject duplicates, find clusters and split; fills the reasons in `rows`."""
    table = rows.table
    usable = np.flatnonzero(table["reason"] == KEPT_CODE)
    place = order_survivors(table)
    stands_for = reject_exact_duplicates(rows, place)
    cluster = stands_for.copy()
    groups = np.searchsorted(usable, stands_for[usable])
    is_val = np.zeros(len(table), dtype=np.bool_)
    is_val[usable] = split_captions(
        table["caption"][usable], groups, val_fraction=config.val_fraction
    )
    return Decisions(
        rows=rows,
        stands_for=stands_for,
        cluster=cluster,
        is_val=is_val,
        masks=measure_masks(store.read_masked()),
        captions=_gather_captions(rows, usable, is_val, config.val_fraction),
        val_fraction=config.val_fraction,
    )


def _gather_captions(
    rows: Rows, usable: Indices, is_val: npt.NDArray[np.bool_], val_fraction: float
) -> CaptionFacts:
    table = rows.table
    numbers, caption = np.unique(table["caption"], return_inverse=True)
    side = draw_val(numbers, val_fraction)
    side[caption[usable]] = is_val[usable]
    kept = table["reason"] == KEPT_CODE
    ranks = np.zeros(len(numbers), dtype=np.uint64)
    ranked = kept & (table["rank"] >= 0) & (table["rank"] < 64)
    bits = np.uint64(1) << table["rank"][ranked].astype(np.uint64)
    np.bitwise_or.at(ranks, caption[ranked], bits)
    images = np.bincount(caption[kept], minlength=len(numbers))
    return CaptionFacts(numbers=numbers, images=images, ranks=ranks, is_val=side)
