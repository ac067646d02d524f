"""Decide over all rows at once: who stands for whom, which cluster, which split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.contracts import REJECT_REASONS, Split
from pipeline.dedupe.alike import AlikeFacts, summarize_clusters
from pipeline.dedupe.clusters import find_clusters
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.masks import HALF
from pipeline.dedupe.numberfile import write_numbers
from pipeline.dedupe.rows import KEPT_CODE, Rows, reason_code
from pipeline.dedupe.splits import draw_val, split_captions
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
    alike: AlikeFacts

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


def decide(
    rows: Rows, masks: Mapping[tuple[str, str], int], config: DedupeConfig, *, scratch: Path
) -> Decisions:
    """Reject duplicates, find clusters and split; fills the reasons in `rows`.

    `scratch` names a file to work with while the search for near duplicates runs.
    """
    table = rows.table
    usable = np.flatnonzero(table["reason"] == KEPT_CODE)
    place = order_survivors(table)
    stands_for = reject_exact_duplicates(rows, place)
    cluster, group = _find_alike(rows, place, config, scratch)
    alike = summarize_clusters(table, cluster)
    if config.near_duplicates == "drop":
        follows = (table["reason"] == KEPT_CODE) & (cluster != np.arange(len(table)))
        table["reason"][follows] = reason_code("near_duplicate")
        stands_for = cluster[stands_for]
    is_val = np.zeros(len(table), dtype=np.bool_)
    _, groups = np.unique(group[stands_for[usable]], return_inverse=True)
    is_val[usable] = split_captions(
        table["caption"][usable], groups, val_fraction=config.val_fraction
    )
    return Decisions(
        rows=rows,
        stands_for=stands_for,
        cluster=cluster,
        is_val=is_val,
        masks=masks,
        captions=_gather_captions(rows, usable, is_val, config.val_fraction),
        alike=alike,
    )


def _find_alike(
    rows: Rows, place: Indices, config: DedupeConfig, scratch: Path
) -> tuple[Indices, Indices]:
    """For each row its cluster's leader and its group's first row; itself where it is alone."""
    table = rows.table
    cluster = np.arange(len(table))
    group = cluster.copy()
    if config.near_duplicates == "off":
        return cluster, group
    unique = np.flatnonzero(table["reason"] == KEPT_CODE)
    unique = unique[np.argsort(place[unique])]
    hashes = write_numbers(scratch, [table["phash"][unique]])
    found = find_clusters(hashes, config.radius, workers=config.workers)
    cluster[unique], group[unique] = unique[found.leader], unique[found.group]
    return cluster, group


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
