"""Decisions that depend on all rows: representatives of duplicates, clusters and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.cluster_stats import ClusterStats, summarize_clusters
from pipeline.dedupe.clusters import find_clusters
from pipeline.dedupe.column_file import BLOCK, POSITION, Positions32, write_column
from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.masks import HALF
from pipeline.dedupe.merging import find_gained, read_gained
from pipeline.dedupe.rows import KEPT_CODE, FurtherCaptions, Rows, reason_code
from pipeline.dedupe.splits import split_captions
from pipeline.dedupe.survivors import order_survivors, reject_exact_duplicates


@dataclass(frozen=True, kw_only=True)
class CaptionFacts:
    """Facts about each caption, in columns sorted by caption number."""

    numbers: npt.NDArray[np.uint64]
    images: npt.NDArray[np.int64]
    ranks: npt.NDArray[np.uint64]
    is_val: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """The decision for each row; index i is the i-th row by key.

    `caption` is the number of a row's caption in `captions`. `gained` are the captions that a row's exact
    duplicates give it.
    """

    rows: Rows
    stands_for: Positions32
    cluster: Positions32
    caption: Positions32
    masks: Mapping[tuple[str, str], int]
    captions: CaptionFacts
    cluster_stats: ClusterStats
    gained: Mapping[int, Sequence[str]] = field(default_factory=dict)

    def masked_rows(self, section: str, caption_id: str, height: int) -> int:
        """Rows of pixels of a masked image that came from the prompt."""
        return self.masks.get((section, caption_id), HALF) * height // (2 * HALF)


def decide(rows: Rows, masks: Mapping[tuple[str, str], int], config: DedupeConfig) -> Decisions:
    """Reject duplicates, find clusters and assign splits; sets the reasons in `rows`.

    Memory: about 40 bytes a row, plus what the search for near duplicates takes.
    """
    usable = rows.reason == KEPT_CODE
    order = order_survivors(rows)
    stands_for = reject_exact_duplicates(rows, order)
    cluster, group = _find_clusters(rows, order, config)
    del order
    numbers, caption = _number_captions(rows)
    cluster_stats = summarize_clusters(rows, cluster, caption)
    further = _index_further(rows.further, numbers)
    links = _link_captions(caption, group[stands_for], usable, further)
    del group, usable
    gained: Mapping[int, Sequence[str]] = {}
    if config.merge_captions:
        more = find_gained(rows, stands_for, caption, further)
        gained = read_gained(rows, stands_for, more)
        further = np.concatenate([further, more])
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
        captions=_gather_captions(rows, numbers, caption, is_val, further),
        cluster_stats=cluster_stats,
        gained=gained,
    )


def _find_clusters(
    rows: Rows, order: Positions32, config: DedupeConfig
) -> tuple[Positions32, Positions32]:
    """The cluster's leader and the group's first row for each row; the row itself if it is alone."""
    cluster = np.arange(len(rows), dtype=POSITION)
    group = cluster.copy()
    if config.near_duplicates == "off":
        return cluster, group
    unique = order[rows.reason[order] == KEPT_CODE]
    phash = rows.column("phash").read()
    in_order = (phash[unique[start : start + BLOCK]] for start in range(0, len(unique), BLOCK))
    hashes = write_column(rows.folder / "hashes", in_order)
    del phash, in_order
    found = find_clusters(hashes, config.radius, workers=config.workers)
    cluster[unique], group[unique] = unique[found.leader], unique[found.group]
    return cluster, group


def _number_captions(rows: Rows) -> tuple[npt.NDArray[np.uint64], Positions32]:
    """The sorted 64-bit numbers of all captions, and the index into them for each row."""
    file = rows.column("caption")
    numbers = np.unique(rows.further.numbers)
    for _, block in file.blocks():
        numbers = np.union1d(numbers, block)
    caption = np.empty(len(rows), dtype=POSITION)
    for start, block in file.blocks():
        caption[start : start + len(block)] = np.searchsorted(numbers, block)
    return numbers, caption


def _index_further(
    further: FurtherCaptions, numbers: npt.NDArray[np.uint64]
) -> npt.NDArray[np.int64]:
    """Rows and indices of their further captions [pairs, 2]."""
    return np.stack([further.rows, np.searchsorted(numbers, further.numbers)], axis=1)


def _link_captions(
    caption: Positions32,
    head: Positions32,
    usable: npt.NDArray[np.bool_],
    further: npt.NDArray[np.int64],
) -> npt.NDArray[np.int32]:
    """Pairs of captions [links, 2] that have usable images in the same group; `head` is its first row.

    Captions of the same image are linked, too.
    """
    pairs = np.stack([caption, caption[head]], axis=1)[usable]
    of_usable = further[usable[further[:, 0]]]
    same_image = np.stack([caption[of_usable[:, 0]], of_usable[:, 1]], axis=1)
    pairs = np.concatenate([pairs, same_image.astype(pairs.dtype)])
    links: npt.NDArray[np.int32] = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return links


def _gather_captions(
    rows: Rows,
    numbers: npt.NDArray[np.uint64],
    caption: Positions32,
    is_val: npt.NDArray[np.bool_],
    further: npt.NDArray[np.int64],
) -> CaptionFacts:
    images = np.zeros(len(numbers), dtype=np.int64)
    ranks = np.zeros(len(numbers), dtype=np.uint64)
    for start, rank in rows.column("rank").blocks():
        part = slice(start, start + len(rank))
        kept = rows.reason[part] == KEPT_CODE
        np.add.at(images, caption[part][kept], 1)
        ranked = kept & (rank >= 0) & (rank < 64)
        bits = np.uint64(1) << rank[ranked].astype(np.uint64)
        np.bitwise_or.at(ranks, caption[part][ranked], bits)
    of_kept = further[rows.reason[further[:, 0]] == KEPT_CODE]
    np.add.at(images, of_kept[:, 1], 1)
    if len(of_kept):
        rank = rows.column("rank").read()[of_kept[:, 0]]
        ranked = (rank >= 0) & (rank < 64)
        np.bitwise_or.at(ranks, of_kept[ranked, 1], np.uint64(1) << rank[ranked].astype(np.uint64))
    return CaptionFacts(numbers=numbers, images=images, ranks=ranks, is_val=is_val)
