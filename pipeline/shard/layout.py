"""Assign samples to shards. Pure.

A set of shards can grow: samples stay in their shard and in their order; new samples are ordered among
themselves and go into new shards. If a sample disappears, its shard is written again without it. If that
would empty a shard, all samples are assigned again from scratch. So the same sequence of inputs yields the
same bytes, but one build of everything may be laid out differently from two builds that each added a part.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import SPLITS, Split

logger = logging.getLogger(__name__)

Keys = npt.NDArray[np.bytes_]
Rows = npt.NDArray[np.int64]
Captions = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The rows of each split: those of each existing shard, and those for new shards."""

    old: Mapping[Split, Sequence[Rows]]
    new: Mapping[Split, Rows]


def lay_out(
    base: Mapping[Split, Sequence[Keys]],
    keys: Keys,
    captions: Captions,
    split_rows: Mapping[Split, Rows],
    *,
    seed: int | None,
) -> Layout:
    """Assign every row of `split_rows`.

    `base` holds the keys of each finished shard, `keys` the unique key of every row, `captions` the number of
    its caption. New rows are spread out by `seed`, or sorted by key if it is None.
    """
    old: dict[Split, list[Rows]] = {}
    new: dict[Split, Rows] = {}
    for split in SPLITS:
        rows = split_rows[split][np.argsort(keys[split_rows[split]], kind="stable")]
        old[split] = [_present(shard, keys, rows) for shard in base[split]]
        if any(len(shard) == 0 for shard in old[split]):
            logger.warning(
                "A shard lost all its samples: all samples are assigned to shards again."
            )
            return lay_out(dict.fromkeys(SPLITS, ()), keys, captions, split_rows, seed=seed)
        taken = np.concatenate([np.zeros(0, np.int64), *old[split]])
        fresh = rows[~np.isin(rows, taken)]
        new[split] = fresh if seed is None else fresh[spread(keys[fresh], captions[fresh], seed)]
    return Layout(old=old, new=new)


def _present(shard: Keys, keys: Keys, rows: Rows) -> Rows:
    """The rows (sorted by key) of a shard's keys, in the shard's order, without lost keys."""
    if not len(rows):
        return rows
    known = keys[rows]
    place = np.minimum(np.searchsorted(known, shard), len(known) - 1)
    present: Rows = rows[place[known[place] == shard]]
    return present


def spread(keys: Keys, captions: Captions, seed: int) -> Rows:
    """An order that keeps the images of a caption far apart, determined by `seed`: int64 [rows].

    The shards form a circle, divided into m arcs for a caption with m images, starting at a position that is
    random for each caption. The images follow in random order, one per arc, each at a random position in the
    first half of its arc. So two images of a caption are at least half an arc apart, and captions appear in a
    different order in each part of the circle.
    """
    if not len(keys):
        return np.zeros(0, np.int64)
    hashes = _hash(keys.tolist(), seed)
    order = np.lexsort((hashes, captions))
    _, starts, group, sizes = np.unique(
        captions[order], return_index=True, return_inverse=True, return_counts=True
    )
    begin = _unit(_hash([caption.tobytes() for caption in captions[order][starts]], seed))
    number = np.arange(len(order)) - starts[group]
    place = (
        begin[group] + (number + _unit(hashes[order] << np.uint64(32)) / 2) / sizes[group]
    ) % 1.0
    return order[np.argsort(place, kind="stable")]


def _hash(names: Sequence[bytes], seed: int) -> npt.NDArray[np.uint64]:
    salt = seed.to_bytes(16, "little", signed=True)
    hashes = [hashlib.blake2b(name, digest_size=8, key=salt).digest() for name in names]
    return np.frombuffer(b"".join(hashes), dtype="<u8")


def _unit(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Hashes as numbers in [0, 1)."""
    return (hashes >> np.uint64(11)).astype(np.float64) * 2.0**-53
