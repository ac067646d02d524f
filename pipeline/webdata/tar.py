"""Write one shard: a plain ustar file whose bytes depend only on its samples.

Every member is one 512-byte header and its data, padded to 512 bytes: no pax headers (they cost 1 kB per
member), time, owner and group 0, mode 0644. Beside `NNNNNN.tar` is `NNNNNN.idx.npy`, an int64 array [samples,
members, 2] of (offset of the data in the tar, bytes), with columns in the order of `members` in `index.json`;
(0, 0) if a sample lacks the member. With it a reader maps the tar and gathers without parsing headers.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import ContractError
from pipeline.core.storage import atomic_write
from pipeline.core.tar import BLOCK, END, header_maker, padding

_FLUSH_BYTES = 1 << 20
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}", re.ASCII)
_make_header = header_maker()


def is_key(key: str) -> bool:
    """Whether `key` can name a sample: 1..80 of A-Z a-z 0-9 _ - (a dot would split the name)."""
    return _KEY.fullmatch(key) is not None


def member_bytes(size: int) -> int:
    """The bytes in a tar of a member with `size` bytes of data."""
    return BLOCK + size + -size % BLOCK


def tar_bytes(payload: int) -> int:
    """The size of a finished tar whose members take `payload` bytes."""
    return payload + len(END)


class ShardWriter:
    """Appends samples to one tar and builds its hash and its table of offsets.

    `columns` is the maximum number of members of a sample. Use `open_shard`, which writes atomically.
    """

    def __init__(self, file: IO[bytes], columns: int) -> None:
        self._file = file
        self._columns = columns
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._hash = hashlib.sha256()
        self._offsets: list[int] = []
        self._keys: set[str] = set()
        self.bytes = 0

    @property
    def samples(self) -> int:
        """The number of samples added."""
        return len(self._keys)

    @property
    def sha256(self) -> str:
        """Hash of the finished tar."""
        return self._hash.hexdigest()

    @property
    def table(self) -> npt.NDArray[np.int64]:
        """Offsets and sizes [samples, members, 2]."""
        return np.array(self._offsets, dtype=np.int64).reshape(-1, self._columns, 2)

    def add(self, key: str, members: Sequence[tuple[str, bytes]]) -> None:
        """Append a sample: pairs of (extension, data), one for each column from the first on.

        Raises ContractError for a key that can't name members, or is already in the shard.
        """
        if not is_key(key):
            raise ContractError(
                f"The key {key!r} can't name a sample: expected 1 to 80 letters, digits, _ and -."
            )
        if key in self._keys:
            raise ContractError(f"Two samples have the key {key!r}: keys must be unique.")
        self._keys.add(key)
        parts = self._pending
        start = end = self.bytes
        for extension, data in members:
            name = f"{key}.{extension}".encode()
            size = len(data)
            parts += (_make_header(name, size), data, padding(size))
            self._offsets += (end + BLOCK, size)
            end += member_bytes(size)
        self._offsets += (0, 0) * (self._columns - len(members))
        self.bytes = end
        self._pending_bytes += end - start
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write the two empty blocks that end a tar."""
        self._pending.append(END)
        self.bytes += len(END)
        self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pending)
        self._hash.update(data)
        self._file.write(data)
        self._pending.clear()
        self._pending_bytes = 0


def table_path(tar: Path) -> Path:
    """The path of a tar's table of offsets."""
    return tar.with_suffix(".idx.npy")


@contextlib.contextmanager
def open_shard(path: Path, columns: int) -> Iterator[ShardWriter]:
    """Write the tar `path` and its table atomically, the tar last.

    Raises StorageError if the disk is full or writing fails; no partial file is left then.
    """
    with atomic_write(path) as file:
        writer = ShardWriter(file, columns)
        yield writer
        writer.finish()
        with atomic_write(table_path(path)) as table_file:
            np.save(table_file, writer.table, allow_pickle=False)
