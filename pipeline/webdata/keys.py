"""The keys of a finished shard, read from the headers of its tar."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import ContractError
from pipeline.webdata.index import ShardEntry
from pipeline.webdata.tar import BLOCK

_NAME_BYTES = 100
_REMEDY = "Run `pipeline shard` again."


def key_of_header(header: bytes) -> str:
    """The key in a header's name, what comes before the first dot."""
    return header[:_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace").split(".")[0]


def read_table(
    folder: Path, entry: ShardEntry, columns: int | None = None
) -> npt.NDArray[np.int64]:
    """The table of offsets of a shard, [samples, members, 2]; `columns` is the number of members.

    Raises ContractError where it is no such table, or points outside of its tar.
    """
    path = folder / entry.table
    try:
        table: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ContractError(f"{path} is no table of offsets ({error}). {_REMEDY}") from error
    members = table.shape[1] if columns is None and table.ndim > 1 else columns
    if table.shape != (entry.nsamples, members, 2) or table.dtype != np.int64:
        raise ContractError(
            f"{path} holds {table.dtype} {list(table.shape)}, expected int64 [{entry.nsamples}, "
            f"{members}, 2]. {_REMEDY}"
        )
    inside = (table >= 0) & (table <= entry.filesize - table[..., ::-1])
    if not inside.all() or (table[:, 0, 0] < BLOCK).any():
        raise ContractError(f"{path} points outside of {entry.url}. {_REMEDY}")
    return table


def read_keys(folder: Path, entry: ShardEntry) -> npt.NDArray[np.bytes_]:
    """The key of every sample, in order.

    Raises ContractError where tar or table are missing or have another size than `entry` says.
    """
    tar, table = folder / entry.url, folder / entry.table
    for path, expected in ((tar, entry.filesize), (table, entry.table_bytes)):
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise ContractError(f"{path} has {found} bytes, its index expects {expected}.")
    starts = read_table(folder, entry)[:, 0, 0] - BLOCK
    with tar.open("rb") as file:
        headers = [os.pread(file.fileno(), _NAME_BYTES, start) for start in starts.tolist()]
    return np.array([key_of_header(header) for header in headers], dtype=np.bytes_)
