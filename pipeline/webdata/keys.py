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


def key_of_header(header: bytes) -> str:
    """The key in a header's name, what comes before the first dot."""
    return header[:_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace").split(".")[0]


def read_keys(folder: Path, entry: ShardEntry) -> npt.NDArray[np.bytes_]:
    """The key of every sample, in order.

    Raises ContractError where tar or table are missing or have another size than `entry` says.
    """
    tar, table = folder / entry.url, folder / entry.table
    for path, expected in ((tar, entry.filesize), (table, entry.table_bytes)):
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise ContractError(f"{path} has {found} bytes, its index expects {expected}.")
    starts = np.load(table, allow_pickle=False)[:, 0, 0] - BLOCK
    with tar.open("rb") as file:
        headers = [os.pread(file.fileno(), _NAME_BYTES, start) for start in starts.tolist()]
    return np.array([key_of_header(header) for header in headers], dtype=np.bytes_)
