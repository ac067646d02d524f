"""In which order samples are read: the same for every rank, machine and version of numpy. Pure.

Legend: B batch size of one rank, N samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """splitmix64's finalizer, a bijection of 64-bit words (https://prng.di.unimi.it/splitmix64.c)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def permute(samples: int, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """A shuffle of 0..samples-1 that `seed` and `epoch` decide alone: int64 [N].

    Rows are sorted by a hash of (seed, epoch, row). numpy's generators may change their streams
    between versions, which would break an exact resume; a hash can't.
    """
    words = np.array([seed & _MASK, epoch & _MASK], dtype=np.uint64)
    start = _mix(_mix(words[:1] + np.uint64(0x9E3779B97F4A7C15)) + words[1:])
    return np.argsort(_mix(_mix(np.arange(samples, dtype=np.uint64)) + start), kind="stable")


def cut_batches(
    order_N: npt.NDArray[np.int64],
    *,
    batch_size: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = True,
) -> Iterator[npt.NDArray[np.int64]]:
    """This rank's slice [B] of each global batch of `batch_size` × `world_size` rows after `start`.

    Without `drop_last` the last global batch is shared out evenly, ranks from 0 on first: slices
    may differ by one row, and be empty when fewer rows than ranks remain.
    """
    whole = batch_size * world_size
    for begin in range(start, len(order_N), whole):
        rows = order_N[begin : begin + whole]
        if len(rows) == whole:
            yield rows[rank * batch_size : (rank + 1) * batch_size]
        elif not drop_last:
            yield np.array_split(rows, world_size)[rank]
