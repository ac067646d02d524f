"""The order in which samples are read: the same on every rank, machine and version of numpy. Pure.

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
    """A shuffle of 0..samples-1, determined only by `seed` and `epoch`: int64 [N].

    Rows are sorted by a hash of (seed, epoch, row). numpy's generators may change their streams between
    versions, which would break an exact resume; a hash can't.
    """
    return np.argsort(_hash_rows(np.arange(samples), seed=seed, epoch=epoch), kind="stable")


def choose_views(
    rows: npt.NDArray[np.int64], views: int, *, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """The view (0..views-1) of each row to show in an epoch: int64 [rows]."""
    return (_hash_rows(rows, seed=seed, epoch=~epoch) % np.uint64(views)).astype(np.int64)


def draw_numbers(rows: npt.NDArray[np.int64], *, seed: int, epoch: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each row, determined only by seed, epoch and row: float64 [rows]."""
    words = _mix(_hash_rows(rows, seed=seed, epoch=epoch))  # differ from those that sort the order
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hash_rows(rows: npt.NDArray[np.int64], *, seed: int, epoch: int) -> npt.NDArray[np.uint64]:
    words = np.array([seed & _MASK, epoch & _MASK], dtype=np.uint64)
    start = _mix(_mix(words[:1] + np.uint64(0x9E3779B97F4A7C15)) + words[1:])
    return _mix(_mix(rows.astype(np.uint64)) + start)


def cut_batches(
    order_N: npt.NDArray[np.int64],
    *,
    batch_size: int,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    worker: int = 0,
    workers: int = 1,
    drop_last: bool = True,
) -> Iterator[npt.NDArray[np.int64]]:
    """This rank's slice [B] of each global batch of `batch_size` × `world_size` rows after `start`.

    If a rank has several `workers`, each takes every `workers`-th batch, beginning with its own number. Read
    in turn, as a DataLoader does, they yield the rank's batches in order.

    Without `drop_last` the last global batch is distributed evenly, beginning with rank 0: slices may differ
    by one row, and may be empty if fewer rows than ranks remain.
    """
    whole = batch_size * world_size
    for begin in range(start + worker * whole, len(order_N), whole * workers):
        rows = order_N[begin : begin + whole]
        if len(rows) == whole:
            yield rows[rank * batch_size : (rank + 1) * batch_size]
        elif not drop_last:
            yield np.array_split(rows, world_size)[rank]
