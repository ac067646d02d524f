"""Decide over all rows at once: who stands for whom, which cluster, which split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.cluster_stats import AlikeFacts, summarize_clusters
from pipeline.dedupe.clusters import find_clusters
from pipeline.dedupe.column_file import BLOCK, POSITION, Places, write_numbers
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.masks import HALF
from pipeline.dedupe.rows import KEPT_CODE, Rows, reason_code
from pipeline.dedupe.splits import split_captions
from pipeline.dedupe.survivors import order_survivors, reject_exact_duplicates


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """What is known of each caption, in columns sorted by its number."""

    numbers: npt.NDArray[np.uint64]
    images: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.uint64]
    is_val: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What was decided of each row; index i is the i-th row by key.

    `caption` is the number of a row's caption in `captions`.
    """

    rows: Rows
    stands_for: Places
    cluster: Places
    caption: Places
    masks: Mapping[tuple[str, str], int]
    captions: CaptionFacts
    alike: AlikeFacts

    def masked_rows(self, section: str, caption_id: str, height: int) -> int:
        """Rows of pixels that the prompt gave of a masked image."""
        return self.masks.get((section, caption_id), HALF) * height // (2 * HALF)


def decide(rows: Rows, masks: Mapping[tuple[str, str], int], config: DedupeConfig) -> Decisions:
    """Reject duplicates, find clusters and split; fills the reasons in `rows`.

    While it works some 40 bytes a row are in memory, besides what a search for near duplicates takes.
    """
    usable = rows.reason == KEPT_CODE
    order = order_survivors(rows)
    stands_for = reject_exact_duplicates(rows, order)
    cluster, group = _find_alike(rows, order, config)
    del order
    numbers, caption = _number_captions(rows)
    alike = summarize_clusters(rows, cluster, caption)
    links = _link_captions(caption, group[stands_for], usable)
    del group, usable
    if config.near_duplicates == "drop":
        follows = cluster != np.arange(len(rows), dtype=POSITION)
        follows &= rows.reason == KEPT_CODE
        rows.reason[follows] = reason_code("near_duplicate")
        stands_for = cluster[stands_for]
    is_val = split_captions(numbers, links, val_fraction=config.val_fraction)
    return Decisions(
        rows=rows,
        stands_for=stands_for,
        cluster=cluster,
        caption=caption,
        masks=masks,
        captions=_gather_captions(rows, numbers, caption, is_val),
        alike=alike,
    )


def _find_alike(rows: Rows, order: Places, config: DedupeConfig) -> tuple[Places, Places]:
    """For each row its cluster's leader and its group's first row; itself where it is alone."""
    cluster = np.arange(len(rows), dtype=POSITION)
    group = cluster.copy()
    if config.near_duplicates == "off":
        return cluster, group
    unique = order[rows.reason[order] == KEPT_CODE]
    phash = rows.numbers("phash").read()
    in_order = (phash[unique[start : start + BLOCK]] for start in range(0, len(unique), BLOCK))
    hashes = write_numbers(rows.folder / "hashes", in_order)
    del phash, in_order
    found = find_clusters(hashes, config.radius, workers=config.workers)
    cluster[unique], group[unique] = unique[found.leader], unique[found.group]
    return cluster, group


def _number_captions(rows: Rows) -> tuple[npt.NDArray[np.uint64], Places]:
    """The 64-bit numbers of all captions, sorted, and for each row which of them is its own."""
    file = rows.numbers("caption")
    numbers = np.empty(0, dtype=np.uint64)
    for _, block in file.blocks():
        numbers = np.union1d(numbers, block)
    caption = np.empty(len(rows), dtype=POSITION)
    for start, block in file.blocks():
        caption[start : start + len(block)] = np.searchsorted(numbers, block)
    return numbers, caption


def _link_captions(
    caption: Places, head: Places, usable: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Each two captions [links, 2] of which usable images are in one group, given its first row."""
    pairs = np.stack([caption, caption[head]], axis=1)[usable]
    links: npt.NDArray[np.int32] = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return links


def _gather_captions(
    rows: Rows,
    numbers: npt.NDArray[np.uint64],
    caption: Places,
    is_val: npt.NDArray[np.bool_],
) -> CaptionFacts:
    images = np.zeros(len(numbers), dtype=np.int64)
    ranks = np.zeros(len(numbers), dtype=np.uint64)
    for start, rank in rows.numbers("rank").blocks():
        part = slice(start, start + len(rank))
        kept = rows.reason[part] == KEPT_CODE
        np.add.at(images, caption[part][kept], 1)
        ranked = kept & (rank >= 0) & (rank < 64)
        bits = np.uint64(1) << rank[ranked].astype(np.uint64)
        np.bitwise_or.at(ranks, caption[part][ranked], bits)
    return CaptionFacts(numbers=numbers, images=images, ranks=ranks, is_val=is_val)
