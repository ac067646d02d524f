"""The codes of a workspace as one matrix on disk, found by pixel hash.

Codes come sorted by hash, shards need them in a shuffled order: they are laid out row by row in a
scratch file and read back one by one. The file is read with `pread`, not mapped: 1.1 million
pictures of 1,024 codes are 2.2 GB, and mapped pages would count as memory.

Legend: N codes of a picture.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import ContractError
from pipeline.shard.inputs import Inputs

VIEW = "center"
CODES_DTYPE = "<u2"
_BATCH_ROWS = 4096


class CodesMatrix:
    """Rows of uint16 [N] in the scratch file `path`, found by pixel hash."""

    def __init__(self, path: Path, hashes: npt.NDArray[np.bytes_], num_codes: int) -> None:
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        self._row_bytes = 2 * num_codes
        self._file = path.open("rb")

    def find(self, hashes: list[str]) -> npt.NDArray[np.int64]:
        """The row of each pixel hash, int64, -1 where there are no codes."""
        if not len(self._sorted):
            return np.full(len(hashes), -1, dtype=np.int64)
        wanted = np.array(hashes, dtype=np.bytes_)
        place = np.minimum(np.searchsorted(self._sorted, wanted), len(self._sorted) - 1)
        return np.where(self._sorted[place] == wanted, self._order[place], -1)

    def read(self, row: int) -> bytes:
        """The codes of a row as the bytes of little-endian uint16 [N]."""
        return os.pread(self._file.fileno(), self._row_bytes, row * self._row_bytes)

    def close(self) -> None:
        """Let go of the scratch file."""
        self._file.close()


def lay_out_codes(inputs: Inputs, path: Path) -> CodesMatrix:
    """Write the codes of the whole pictures (view `center`) to `path`, row after row.

    Raises ContractError that names a table whose codes have another number than the grid, lie
    beyond the codebook, or come twice for the same pixels.
    """
    hashes = [np.zeros(0, dtype="S1")]
    with path.open("wb") as file:
        for table in inputs.codes_files:
            for found, codes in _read_table(inputs, table):
                hashes.append(found)
                file.write(codes.tobytes())
    everything = np.concatenate(hashes)
    if len(np.unique(everything)) != len(everything):
        raise ContractError(
            f"{inputs.codes_files[0].parent} holds codes of the same pixels twice. "
            "Run `pipeline encode` again."
        )
    return CodesMatrix(path, everything, inputs.num_codes)


def _read_table(
    inputs: Inputs, table: Path
) -> Iterator[tuple[npt.NDArray[np.bytes_], npt.NDArray[np.uint16]]]:
    """Pixel hashes and codes [rows × N] of a table, some rows at a time."""
    try:
        with pq.ParquetFile(table, pre_buffer=False) as source:
            for batch in source.iter_batches(
                _BATCH_ROWS, columns=["pixel_sha256", "view", "codes"]
            ):
                rows = batch.filter(pc.equal(batch["view"], VIEW))
                if rows.num_rows:
                    hashes = np.array(rows["pixel_sha256"].to_pylist(), dtype=np.bytes_)
                    yield hashes, _codes_of(inputs, rows, table)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ContractError(
            f"{table} can't be read ({error}). Run `pipeline encode` again."
        ) from error


def _codes_of(inputs: Inputs, rows: pa.RecordBatch, table: Path) -> npt.NDArray[np.uint16]:
    """Codes uint16 [rows × N], checked."""
    lengths = np.diff(rows["codes"].offsets.to_numpy())
    codes: npt.NDArray[np.uint16] = (
        rows["codes"].flatten().to_numpy().astype(CODES_DTYPE, copy=False)
    )
    if (lengths != inputs.num_codes).any() or len(codes) != rows.num_rows * inputs.num_codes:
        raise ContractError(
            f"{table} has a row of {lengths[lengths != inputs.num_codes][0]} codes, its codec makes "
            f"{inputs.grid[0]} × {inputs.grid[1]}. Run `pipeline encode` again."
        )
    if codes.max() >= inputs.codebook_size:
        raise ContractError(
            f"{table} has the code {codes.max()}, its codebook ends at {inputs.codebook_size - 1}. "
            "Run `pipeline encode` again."
        )
    return codes
