"""Which sample goes into which shard. Pure.

A set of shards grows: samples stay in the shard that has them, in their order there; new samples are
ordered among themselves and follow in new shards. A sample that is no longer there leaves a gap in
none: its shard is written again without it. If that would empty a shard, everything is laid out anew.
So the same sequence of inputs gives the same bytes; one build of everything may lay it out otherwise
than two builds that each brought a part.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.contracts import SPLITS, Split

logger = logging.getLogger(__name__)

Keys = npt.NDArray[np.bytes_]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Rows of each split: of the shards that are there already, and of those that follow."""

    old: Mapping[Split, Sequence[Rows]]
    new: Mapping[Split, Rows]


def lay_out(
    base: Mapping[Split, Sequence[Keys]],
    keys: Keys,
    split_rows: Mapping[Split, Rows],
    *,
    seed: int | None,
) -> Layout:
    """Give every row of `split_rows` its place.

    `base` holds the keys of each finished shard, `keys` the unique key of every row. New rows are
    ordered by a hash of `seed` and key, or by key where `seed` is None.
    """
    old: dict[Split, list[Rows]] = {}
    new: dict[Split, Rows] = {}
    for split in SPLITS:
        rows = split_rows[split][np.argsort(keys[split_rows[split]], kind="stable")]
        old[split] = [_present(shard, keys, rows) for shard in base[split]]
        if any(len(shard) == 0 for shard in old[split]):
            logger.warning("A shard lost all its samples: everything is laid out anew.")
            return lay_out(dict.fromkeys(SPLITS, ()), keys, split_rows, seed=seed)
        taken = np.concatenate([np.zeros(0, np.int64), *old[split]])
        fresh = rows[~np.isin(rows, taken)]
        new[split] = fresh if seed is None else fresh[_shuffled(keys[fresh], seed)]
    return Layout(old=old, new=new)


def _present(shard: Keys, keys: Keys, rows: Rows) -> Rows:
    """The rows (sorted by key) that the keys of a shard stand for, in its order; lost keys left out."""
    if not len(rows):
        return rows
    known = keys[rows]
    place = np.minimum(np.searchsorted(known, shard), len(known) - 1)
    present: Rows = rows[place[known[place] == shard]]
    return present


def _shuffled(keys: Keys, seed: int) -> Rows:
    """The order of a hash of seed and key; every key has its own."""
    salt = seed.to_bytes(16, "little", signed=True)
    hashes = [hashlib.blake2b(key, digest_size=8, key=salt).digest() for key in keys.tolist()]
    return np.argsort(np.frombuffer(b"".join(hashes), dtype="<u8"), kind="stable")
