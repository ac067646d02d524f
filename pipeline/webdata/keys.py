"""The keys of samples: from image keys and back; those of a finished shard, from the headers of its tar."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import REPAIR, ContractError, damaged
from pipeline.core.ownership import path_inside
from pipeline.core.storage import sha256_file
from pipeline.core.tar import BLOCK
from pipeline.webdata.index import INDEX_NAME, ShardEntry

_NAME_BYTES = 100
# Keys of images are in lower case, so no image has a key with such an end.
_FURTHER_CAPTION = re.compile(r"-C[1-9][0-9]*\Z")


def caption_key(image_key: str, index: int) -> str:
    """The key of the sample that joins an image with its caption `index`: for the first, the image's own."""
    return image_key if index == 0 else f"{image_key}-C{index}"


def image_key(key: str) -> str:
    """The key of a sample's image, as in `kept`."""
    return _FURTHER_CAPTION.sub("", key)


def key_of_header(header: bytes) -> str:
    """The key in a header's name: the part before the first dot."""
    return header[:_NAME_BYTES].rstrip(b"\0").decode("ascii", "replace").split(".")[0]


def read_table(
    folder: Path, entry: ShardEntry, columns: int | None = None
) -> npt.NDArray[np.int64]:
    """The table of offsets of a shard, [samples, members, 2]; `columns` is the number of members.

    Raises ContractError if it isn't such a table, or points outside its tar.
    """
    path = folder / entry.table
    try:
        table: npt.NDArray[np.int64] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise ContractError(f"{path} is not a table of offsets ({error}). {REPAIR}") from error
    members = table.shape[1] if columns is None and table.ndim > 1 else columns
    if table.shape != (entry.nsamples, members, 2) or table.dtype != np.int64:
        raise ContractError(
            f"{path} holds {table.dtype} {list(table.shape)}, expected int64 [{entry.nsamples}, "
            f"{members}, 2]. {REPAIR}"
        )
    inside = (table >= 0) & (table <= entry.filesize - table[..., ::-1])
    if not inside.all() or (table[:, 0, 0] < BLOCK).any():
        raise ContractError(f"{path} points outside {entry.url}. {REPAIR}")
    return table


def read_keys(folder: Path, entry: ShardEntry) -> npt.NDArray[np.bytes_]:
    """The key of every sample, in order.

    Raises ContractError if the tar or the table is missing or differs in size from `entry`.
    """
    tar, table = (path_inside(folder, name, source=INDEX_NAME) for name in (entry.url, entry.table))
    for path, expected in ((tar, entry.filesize), (table, entry.table_bytes)):
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise damaged(f"{path} has {found} bytes, its index expects {expected}.")
    starts = read_table(folder, entry)[:, 0, 0] - BLOCK
    if not len(starts):
        return np.empty(0, np.bytes_)
    data = np.memmap(tar, dtype=np.uint8, mode="r")
    # As bytes, all at once: turning a million headers into text takes seconds.
    names = np.lib.stride_tricks.sliding_window_view(data, _NAME_BYTES)[starts]
    ends = (np.pad(names, ((0, 0), (0, 1)), constant_values=ord(".")) == ord(".")).argmax(axis=1)
    width = max(1, int(ends.max()))
    keys = np.where(np.arange(width) < ends[:, None], names[:, :width], 0).astype(np.uint8)
    return keys.view(f"S{width}")[:, 0]


def salvage_keys(folder: Path, entry: ShardEntry) -> npt.NDArray[np.bytes_] | None:
    """The key of every sample of a possibly damaged shard, in order; None if any key is lost.

    Each member of a sample has a header with the key and a checksum: one intact header is enough. Raises
    ContractError for a path outside the folder.
    """
    tar, table = (path_inside(folder, name, source=INDEX_NAME) for name in (entry.url, entry.table))
    try:
        whole = sha256_file(table) == entry.table_sha256
        with tar.open("rb") as file:
            starts = read_table(folder, entry)[:, :, 0] if whole else _walk(file.fileno(), entry)
            keys = [_salvage_key(file.fileno(), sample.tolist()) for sample in starts]
    except (OSError, ContractError):
        return None
    found = [key for key in keys if key]
    return np.array(found, dtype=np.bytes_) if len(found) == len(keys) == entry.nsamples else None


def _salvage_key(tar: int, starts: list[int]) -> str:
    """The key in the first intact header of a sample, given the offsets of its members' data."""
    headers = (os.pread(tar, BLOCK, start - BLOCK) for start in starts if start)
    return next((key_of_header(header) for header in headers if _is_whole(header)), "")


def _is_whole(header: bytes) -> bool:
    """Whether a header matches its own checksum (POSIX ustar)."""
    digits = header[148:156].partition(b"\0")[0].strip()
    found = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    return len(header) == BLOCK and digits.isdigit() and found == int(digits, 8)


def _walk(tar: int, entry: ShardEntry) -> npt.NDArray[np.int64]:
    """The offset of the data of each sample's first member [samples, 1], found from the headers alone."""
    starts, position, last = [], 0, ""
    while position < entry.filesize:
        header = os.pread(tar, BLOCK, position)
        if not _is_whole(header):
            break
        key = key_of_header(header)
        if key != last:
            starts.append(position + BLOCK)
        last, size = key, int(header[124:135], 8)
        position += BLOCK + size + -size % BLOCK
    return np.array(starts, dtype=np.int64).reshape(-1, 1)
