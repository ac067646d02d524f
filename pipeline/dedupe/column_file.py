"""Columns of numbers in files: hashes and positions, possibly more than should be in memory.

They are read in blocks with plain reads: the pages of a memory-mapped file would count towards the memory of
every process that touches them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dedupe.bands import Hashes

BLOCK = 262_144
# Numbers of a file that are processed at once; a worker takes some 60 bytes for each.
SLICE = 262_144

# Times this odd number (Knuth's, 2**64 / golden ratio) equal hashes stay equal and others spread evenly.
_MIXER, _HALF = np.uint64(0x9E3779B97F4A7C15), np.uint64(32)

HASH = np.dtype(np.uint64)
POSITION = np.dtype(np.int32)  # there are fewer than 2**31 hashes

# Positions in half the memory of `Positions`, for long arrays.
Positions32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class ColumnFile:
    """`count` consecutive numbers of one type in a file."""

    path: Path
    dtype: np.dtype[Any]
    count: int

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield the start of each block and its numbers."""
        with self.path.open("rb") as file:
            for start in range(0, self.count, BLOCK):
                yield start, np.fromfile(file, self.dtype, BLOCK)

    def read(self) -> npt.NDArray[Any]:
        """All numbers."""
        return np.fromfile(self.path, self.dtype)

    def take(self, places: npt.NDArray[np.integer]) -> npt.NDArray[Any]:
        """The numbers at `places`, which must be sorted."""
        taken = [np.empty((0, *self.dtype.shape), self.dtype.base)]
        for start, block in self.blocks():
            low, high = np.searchsorted(places, [start, start + len(block)])
            taken.append(block[places[low:high] - start])
        return np.concatenate(taken)


def write_column(
    path: Path, blocks: Iterable[npt.NDArray[Any]], dtype: np.dtype[Any] = HASH
) -> ColumnFile:
    """Write numbers to a file."""
    count = 0
    with path.open("wb") as file:
        for block in blocks:
            block.astype(dtype, copy=False).tofile(file)
            count += len(block)
    return ColumnFile(path, dtype, count)


def find_first_equal(hashes: ColumnFile) -> Positions32:
    """The position of the first hash that equals each hash: its own if it is the first.

    Works on one slice of the values at a time, so memory holds one slice besides the result.
    """
    first = np.arange(hashes.count, dtype=POSITION)
    slices = -(-hashes.count // SLICE)
    for number in range(slices):
        _mark_equal(hashes, number, slices, first)
    return first


def _mark_equal(hashes: ColumnFile, number: int, slices: int, first: Positions32) -> None:
    held: list[tuple[Hashes, Positions32]] = []
    size, most = 0, 2 * SLICE
    for start, block in hashes.blocks():
        mixed = block * _MIXER >> _HALF
        inside = np.flatnonzero(mixed * np.uint64(slices) >> _HALF == number)
        held.append((block[inside], (inside + start).astype(POSITION)))
        size += len(inside)
        if size > most:  # many are equal
            held = [_merge(held, first)]
            size = len(held[0][0])
            most = max(most, 2 * size)
    _merge(held, first)


def _merge(
    held: list[tuple[Hashes, Positions32]], first: Positions32
) -> tuple[Hashes, Positions32]:
    """Record equal values in `first`; return each value once, with its first position."""
    values, places = (np.concatenate(column) for column in zip(*held, strict=True))
    order = np.argsort(values)
    values, places = values[order], places[order]
    starts = np.concatenate(([0], np.flatnonzero(values[1:] != values[:-1]) + 1))[: len(values)]
    if len(starts) == len(values):
        return values, places
    earliest = np.minimum.reduceat(places, starts)
    first[places] = np.repeat(earliest, np.diff(starts, append=len(values)))
    return values[starts], earliest
