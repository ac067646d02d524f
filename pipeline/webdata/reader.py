"""Read shards: memory-map each tar and gather token ids and codes by row, in any order.

Reads `index.json`, the tars it lists and their tables of offsets; needs only numpy. A row is the position of
a sample in its split, counted across the shards in the order of the index.

Legend: B batch size of one rank, T text_seq_len, N num_codes.
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.contracts import Split
from pipeline.core.errors import REPAIR, ContractError, DamageError, damaged
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json
from pipeline.core.storage import sha256_file, storage_error
from pipeline.core.tar import BLOCK
from pipeline.webdata.index import (
    IMAGE_MEMBER,
    INDEX_NAME,
    ShardEntry,
    ShardIndex,
    codes_shape,
    read_index,
)
from pipeline.webdata.keys import image_key, key_of_header, read_table
from pipeline.webdata.npy import npy_header
from pipeline.webdata.order import choose_views, cut_batches, permute

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TokenBatch:
    """Token ids int32 [B, T], codes int32 [B, N] and the rows int64 [B] they come from."""

    tokens_BT: npt.NDArray[np.int32]
    codes_BN: npt.NDArray[np.int32]
    rows: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """Everything about one sample, with the codes of its first view; `image` is None if shards have none."""

    key: str
    caption: str
    record: dict[str, Any]
    tokens: npt.NDArray[np.int32]
    codes: npt.NDArray[np.int32]
    image: bytes | None

    @property
    def image_key(self) -> str:
        """The key of its image in `kept`, which the samples of its other captions share."""
        return image_key(self.key)


class ShardReader:
    """The samples of one split of `folder`.

    Opening the reader checks every file against the index: its size, and with `check_hashes` its sha256 (this
    reads everything once, about 0.5 GB per second and core; in distributed runs only one rank needs to do
    it). Raises ContractError that names a missing, truncated or changed file. With `skip_corrupt` such
    shards are left out, logged, and counted in `skipped` (file name → samples).
    """

    index: ShardIndex
    skipped: dict[str, int]

    def __init__(
        self,
        folder: Path,
        split: Split,
        *,
        skip_corrupt: bool = False,
        check_hashes: bool = True,
    ) -> None:
        self.folder = folder
        self.split = split
        self.index = read_index(folder)
        self.skipped = {}
        self._entries = self._whole_shards(skip_corrupt=skip_corrupt, check_hashes=check_hashes)
        self._maps: dict[int, memoryview] = {}
        self._last_table: tuple[str, npt.NDArray[np.int64]] | None = None
        self._load_offsets()

    def __len__(self) -> int:
        return len(self._shard_of_row)

    def __getstate__(self) -> dict[str, Any]:
        # Another process, such as a DataLoader worker, maps the files itself.
        return {**self.__dict__, "_maps": {}, "_last_table": None}

    def gather(self, rows: npt.ArrayLike, views: npt.ArrayLike = 0) -> TokenBatch:
        """Token ids and codes of `rows`, in their order; rows may be any integers in 0..len-1.

        `views` is the index of the view, one for each row or one for all; 0 is the first of `index.views`.
        """
        index, tokens_size, codes_size = self.index, self._tokens_bytes, self._codes_bytes
        rows = np.asarray(rows, dtype=np.int64)
        tokens, codes = bytearray(len(rows) * tokens_size), bytearray(len(rows) * codes_size)
        tokens_view, codes_view = memoryview(tokens), memoryview(codes)
        tokens_at = codes_at = 0
        for shard, tokens_offset, codes_offset in zip(
            self._shard_of_row[rows].tolist(),
            self._tokens_offset[rows].tolist(),
            (self._codes_offset[rows] + np.asarray(views) * codes_size).tolist(),
            strict=True,
        ):
            data = self._maps.get(shard) or self._map(shard)
            tokens_end, codes_end = tokens_at + tokens_size, codes_at + codes_size
            tokens_view[tokens_at:tokens_end] = data[tokens_offset : tokens_offset + tokens_size]
            codes_view[codes_at:codes_end] = data[codes_offset : codes_offset + codes_size]
            tokens_at, codes_at = tokens_end, codes_end
        tokens_BT = np.frombuffer(tokens, index.tokens_dtype).reshape(-1, index.text_seq_len)
        codes_BN = np.frombuffer(codes, index.codes_dtype).reshape(-1, index.num_codes)
        return TokenBatch(tokens_BT.astype(np.int32), codes_BN.astype(np.int32), rows)

    def sample(self, row: int) -> Sample:
        """Everything about one row: key, caption, record, ids, codes and the image, if any."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        shard = int(self._shard_of_row[row])
        table = self._table(self._entries[shard])[row - int(self._first_row[shard])]
        data = self._maps.get(shard) or self._map(shard)
        parts = {
            member: bytes(data[offset : offset + size])
            for member, (offset, size) in zip(self.index.members, table.tolist(), strict=True)
            if offset
        }
        header = bytes(data[int(table[0, 0]) - BLOCK : int(table[0, 0])])
        batch = self.gather(np.array([row]))
        key, source = key_of_header(header), f"{self.folder / self.url_of(row)}: row {row}"
        try:
            caption = parts["txt"].decode()
        except (KeyError, UnicodeDecodeError) as error:
            raise ContractError(f"{source} has no caption in UTF-8. {REPAIR}") from error
        return Sample(
            key=key,
            caption=caption,
            record=parse_json(dict[str, Any], parts.get("json", b""), source=source),
            tokens=batch.tokens_BT[0],
            codes=batch.codes_BN[0],
            image=parts.get(IMAGE_MEMBER),
        )

    def url_of(self, row: int) -> str:
        """The tar that holds a row, relative to the folder."""
        return self._entries[int(self._shard_of_row[row])].url

    def rows_of(self, url: str) -> range:
        """The rows of a tar.

        Raises ContractError if the index has no such tar in this split.
        """
        for entry, first in zip(self._entries, self._first_row.tolist(), strict=True):
            if entry.url == url:
                return range(first, first + entry.nsamples)
        there = f"{self._entries[0].url} … {self._entries[-1].url}" if self._entries else "none"
        raise ContractError(f"{self.folder} has no shard {url} with samples; there are: {there}.")

    def order(self, *, seed: int, epoch: int) -> npt.NDArray[np.int64]:
        """The rows shuffled for one epoch, the same for every rank and any number of ranks."""
        return permute(len(self), seed=seed, epoch=epoch)

    def batches(
        self,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        worker: int = 0,
        workers: int = 1,
        drop_last: bool = True,
    ) -> Iterator[TokenBatch]:
        """One epoch for one rank: its slice of consecutive global batches in the epoch's order.

        With several `workers`, each takes these batches in turn; this is number `worker`. If samples have
        several views, the training split shows one per epoch, chosen by seed and epoch; validation shows the
        first. `start` is the number of samples that all ranks together have consumed: a run resumes exactly
        there, even with another `batch_size` or `world_size`. With `drop_last` an incomplete last global
        batch is dropped, otherwise it is distributed evenly.
        """
        order = self.order(seed=seed, epoch=epoch)
        for rows in cut_batches(
            order,
            batch_size=batch_size,
            start=start,
            rank=rank,
            world_size=world_size,
            worker=worker,
            workers=workers,
            drop_last=drop_last,
        ):
            yield self.gather(rows, self.views_of(rows, seed=seed, epoch=epoch))

    def views_of(self, rows: npt.NDArray[np.int64], *, seed: int, epoch: int) -> npt.ArrayLike:
        """The view of each row to show in an epoch; validation always shows the first."""
        count = len(self.index.views)
        if count == 1 or self.split == "val":
            return 0
        return choose_views(rows, count, seed=seed, epoch=epoch)

    def check(self, url: str) -> None:
        """Raise DamageError if a tar differs from its index entry; reads the whole tar."""
        for entry in self._entries:
            if entry.url == url and (fault := self._fault(entry, check_hashes=True)):
                raise damaged(fault)

    def _whole_shards(self, *, skip_corrupt: bool, check_hashes: bool) -> list[ShardEntry]:
        """The undamaged shards."""
        entries = self.index.shards[self.split]
        with ThreadPoolExecutor(max_workers=4) as pool:
            faults = list(pool.map(lambda entry: self._fault(entry, check_hashes), entries))
        for entry, fault in zip(entries, faults, strict=True):
            if fault and not skip_corrupt:
                raise DamageError(f"{fault} {REPAIR} Or leave such shards out (skip corrupt).")
            if fault:
                self.skipped[entry.url] = entry.nsamples
                logger.warning("Left out %s with %d samples: %s", entry.url, entry.nsamples, fault)
        return [entry for entry, fault in zip(entries, faults, strict=True) if not fault]

    def _fault(self, entry: ShardEntry, check_hashes: bool) -> str | None:
        for name, size, sha256 in (
            (entry.table, entry.table_bytes, entry.table_sha256),
            (entry.url, entry.filesize, entry.sha256),
        ):
            path = path_inside(self.folder, name, source=self.folder / INDEX_NAME)
            try:
                found = path.stat().st_size
                if found != size:
                    return f"{path} has {found} bytes, its index expects {size}."
                if (check_hashes or name == entry.table) and sha256_file(path) != sha256:
                    return f"{path} is not the file that its index describes (sha256 differs)."
            except OSError as error:
                return f"{path} can't be read: {error.strerror}."
        return None

    def _table(self, entry: ShardEntry) -> npt.NDArray[np.int64]:
        """The table of offsets of a shard; the last one is kept, for samples in the order of their rows."""
        if self._last_table is None or self._last_table[0] != entry.table:
            table = read_table(self.folder, entry, columns=len(self.index.members))
            self._last_table = entry.table, table
        return self._last_table[1]

    def _load_offsets(self) -> None:
        """Store for each row its shard, and the offsets of its ids and codes after their npy headers."""
        index = self.index
        self._tokens_bytes = index.text_seq_len * np.dtype(index.tokens_dtype).itemsize
        self._codes_bytes = index.num_codes * np.dtype(index.codes_dtype).itemsize
        tokens_head = len(npy_header(index.tokens_dtype, index.text_seq_len))
        codes_head = len(npy_header(index.codes_dtype, *codes_shape(index.views, index.num_codes)))
        all_codes = self._codes_bytes * len(index.views)
        self._tokens_offset = self._offsets("tokens.npy", tokens_head, self._tokens_bytes)
        self._codes_offset = self._offsets("codes.npy", codes_head, all_codes)
        counts = np.array([entry.nsamples for entry in self._entries], dtype=np.int64)
        self._first_row = np.cumsum(counts) - counts
        self._shard_of_row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)

    def _offsets(self, member: str, head: int, data_bytes: int) -> npt.NDArray[np.int64]:
        column = self.index.members.index(member)
        parts = [np.zeros(0, np.int64)]
        for entry in self._entries:
            table = self._table(entry)[:, column]
            if (table[:, 1] != head + data_bytes).any():
                raise ContractError(
                    f"{self.folder / entry.table} does not describe {entry.nsamples} members "
                    f"{member} of {head + data_bytes} bytes. {REPAIR}"
                )
            parts.append(table[:, 0] + head)
        return np.concatenate(parts)

    def _map(self, shard: int) -> memoryview:
        path = self.folder / self._entries[shard].url
        try:
            with path.open("rb") as file:
                view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError as error:
            raise storage_error(error, path) from error
        self._maps[shard] = view
        return view
