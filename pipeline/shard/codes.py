"""The codes of a workspace in one scratch file, looked up by pixel hash.

Codes come sorted by hash but shards need them in shuffled order, so they are written row by row to a scratch
file and read back one by one. The file is read with `pread`, not memory-mapped: 1.1 million images of 1,024
codes are 2.2 GB, and mapped pages would count as memory.

Legend: V views of an image, N codes of a view.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.errors import damaged
from pipeline.shard.code_tables import read_batches
from pipeline.shard.inputs import Inputs
from pipeline.webdata.npy import Dtype

CODES_DTYPE: Dtype = "<u2"
_HASH = "S64"

Hashes = npt.NDArray[np.bytes_]


class CodesFile:
    """Rows of uint16 [V, N] in the scratch file `path`, one for each of the sorted `hashes`."""

    def __init__(self, path: Path, hashes: Hashes, views: tuple[str, ...], num_codes: int) -> None:
        self._hashes = hashes
        self._views = views
        self._view_bytes = 2 * num_codes
        self._has_view = np.zeros((len(hashes), len(views)), dtype=bool)
        self._file = path.open("w+b")

    def write(self, hashes: Hashes, views: npt.NDArray[np.int64], codes: bytes) -> str | None:
        """Write the codes of some images and views; return a hash that occurs twice, or None."""
        rows, size = np.searchsorted(self._hashes, hashes), self._view_bytes
        places = rows * len(self._views) + views
        if twice := np.flatnonzero(self._has_view[rows, views] | _repeats(places)).tolist():
            return str(hashes[twice[0]].decode())
        self._has_view[rows, views] = True
        for number, place in enumerate((places * size).tolist()):
            os.pwrite(self._file.fileno(), codes[number * size : (number + 1) * size], place)
        return None

    def find(self, hashes: list[str]) -> npt.NDArray[np.int64]:
        """The row of each pixel hash, int64; -1 if any view is missing."""
        if not len(self._hashes):
            return np.full(len(hashes), -1, dtype=np.int64)
        wanted = np.array(hashes, dtype=np.bytes_)
        place = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        whole = (self._hashes[place] == wanted) & self._has_view[place].all(axis=1)
        return np.where(whole, place, -1)

    def read(self, row: int) -> bytes:
        """The codes of a row as bytes, little-endian uint16 [V, N]."""
        size = self._view_bytes * len(self._views)
        return os.pread(self._file.fileno(), size, row * size)

    def close(self) -> None:
        """Close the scratch file."""
        self._file.close()


def _repeats(places: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which of the places were there before."""
    _, first = np.unique(places, return_index=True)
    repeats = np.ones(len(places), dtype=np.bool_)
    repeats[first] = False
    return repeats


def write_codes_file(inputs: Inputs, path: Path) -> CodesFile:
    """Write the codes of all images and views to `path`.

    Raises DamageError that names the table if codes don't match the size of the grid, are outside the
    codebook, or occur twice for the same view of the same pixels.
    """
    hashes = [np.zeros(0, dtype=_HASH), *(_read_hashes(table) for table in inputs.codes.paths)]
    file = CodesFile(path, np.unique(np.concatenate(hashes)), inputs.views, inputs.num_codes)
    for table in inputs.codes.paths:
        for rows in read_batches(table, ["pixel_sha256", "view", "codes"]):
            views = pc.index_in(rows["view"], pa.array(inputs.views)).to_numpy()
            codes = _codes_of(inputs, rows, table)
            twice = file.write(_hashes_of(rows), views.astype(np.int64), codes.tobytes())
            if twice:
                raise damaged(f"{table} has the codes of the pixels {twice} twice.")
    return file


def _read_hashes(table: Path) -> Hashes:
    """The distinct pixel hashes of a table."""
    parts = [_hashes_of(rows) for rows in read_batches(table, ["pixel_sha256"])]
    return np.unique(np.concatenate([np.zeros(0, dtype=_HASH), *parts]))


def _hashes_of(rows: pa.RecordBatch) -> Hashes:
    return np.array(rows["pixel_sha256"].to_pylist(), dtype=_HASH)


def _codes_of(inputs: Inputs, rows: pa.RecordBatch, table: Path) -> npt.NDArray[np.uint16]:
    """The checked codes of the rows, flattened, uint16."""
    lengths = np.diff(rows["codes"].offsets.to_numpy())
    codes: npt.NDArray[np.uint16] = (
        rows["codes"].flatten().to_numpy().astype(CODES_DTYPE, copy=False)
    )
    if (lengths != inputs.num_codes).any() or len(codes) != rows.num_rows * inputs.num_codes:
        raise damaged(
            f"{table} has a row of {lengths[lengths != inputs.num_codes][0]} codes; its codec yields "
            f"{inputs.grid[0]} × {inputs.grid[1]}."
        )
    if codes.max() >= inputs.codebook_size:
        raise damaged(
            f"{table} has the code {codes.max()}; its codebook ends at {inputs.codebook_size - 1}."
        )
    return codes
