"""Shards in a torch training loop of your own.

    >>> from torch.utils.data import DataLoader
    >>> from pipeline.data import ShardDataset
    >>> dataset = ShardDataset("data/try/shards/default", batch_size=32, seed=0)
    >>> for epoch in range(3):
    ...     dataset.set_epoch(epoch)
    ...     for tokens_BT, codes_BN in DataLoader(dataset, batch_size=None, num_workers=2):
    ...         loss = model(tokens_BT, codes_BN)

Token ids and codes are int64 tensors. The order of an epoch is drawn from `seed` and `epoch` alone: it is
the same for every number of ranks and workers, and a run resumes exactly where it was (`state_dict`).
Rows are read from mapped files by `pipeline.webdata.reader.ShardReader`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from pipeline.core.errors import ConfigError
from pipeline.webdata.order import cut_batches, permute
from pipeline.webdata.reader import ShardReader, TokenBatch

Split = Literal["train", "val"]
Folders = str | Path | Sequence[str | Path] | Mapping[str | Path, float]


class ShardRows(Dataset[tuple[Tensor, Tensor]]):
    """The samples of shards by row: `rows[i]` is (tokens_T, codes_N), int64.

    `folders` is a set of shards (the folder that holds index.json), several of them one after the other, or a
    mapping of each to its weight: with 2.0 it is there twice, with 0.5 half of its rows, chosen by hash.

    Raises ContractError where a set is not whole or where sets don't fit each other: another number of token
    ids, codes, or codebook entries.
    """

    def __init__(
        self, folders: Folders, split: Split = "train", *, check_hashes: bool = True
    ) -> None:
        if split not in ("train", "val"):
            raise ConfigError(f"split is {split!r}, expected 'train' or 'val'.")
        weights = _weights(folders)
        self.readers = [ShardReader(folder, split, check_hashes=check_hashes) for folder in weights]
        _check_alike(self.readers)
        rows = [
            _repeat(len(reader), weight)
            for reader, weight in zip(self.readers, weights.values(), strict=True)
        ]
        self._reader_of_row = np.repeat(np.arange(len(rows)), [len(each) for each in rows])
        self._row_of_row = np.concatenate(rows)

    def __len__(self) -> int:
        return len(self._row_of_row)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        tokens_BT, codes_BN = self.gather(np.array([row % len(self)]))
        return tokens_BT[0], codes_BN[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """What a DataLoader with a batch size calls: all rows of a batch at once."""
        tokens_BT, codes_BN = self.gather(np.asarray(rows))
        return list(zip(tokens_BT, codes_BN, strict=True))

    def gather(
        self, rows: npt.NDArray[np.int64], *, seed: int = 0, epoch: int = 0
    ) -> tuple[Tensor, Tensor]:
        """tokens_BT and codes_BN of `rows`; `seed` and `epoch` choose the view where there are several."""
        index = self.readers[0].index
        tokens_BT = np.empty((len(rows), index.text_seq_len), np.int64)
        codes_BN = np.empty((len(rows), index.num_codes), np.int64)
        owners, own_rows = self._reader_of_row[rows], self._row_of_row[rows]
        for number in np.unique(owners):
            at = np.flatnonzero(owners == number)
            batch = self._read(self.readers[number], own_rows[at], seed, epoch)
            tokens_BT[at], codes_BN[at] = batch.tokens_BT, batch.codes_BN
        return torch.from_numpy(tokens_BT), torch.from_numpy(codes_BN)

    @staticmethod
    def _read(
        reader: ShardReader, rows: npt.NDArray[np.int64], seed: int, epoch: int
    ) -> TokenBatch:
        return reader.gather(rows, reader.views_of(rows, seed=seed, epoch=epoch))


class ShardDataset(IterableDataset[tuple[Tensor, Tensor]]):
    """Batches of one epoch at a time: (tokens_BT, codes_BN), int64.

    Give it to a DataLoader with `batch_size=None`. `batch_size` is that of one rank; `rank` and
    `world_size` are those of `torch.distributed` where it is initialised. What all ranks take together is
    the same batch for the same `batch_size × world_size`, whatever the number of workers. With `drop_last`
    (the default) a last batch that is not full is left out. See `ShardRows` for `folders`.
    """

    def __init__(
        self,
        folders: Folders,
        *,
        batch_size: int,
        split: Split = "train",
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = True,
        rank: int | None = None,
        world_size: int | None = None,
        check_hashes: bool = True,
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}, expected 1 or more.")
        self.rows = ShardRows(folders, split, check_hashes=check_hashes)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.drop_last = drop_last
        here = _distributed()
        self.rank = here[0] if rank is None else rank
        self.world_size = here[1] if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(f"rank is {self.rank}, expected 0 to {self.world_size - 1}.")
        self.epoch, self.consumed = 0, 0

    def __len__(self) -> int:
        """Batches that are left of this epoch, for this rank."""
        left = len(self.rows) - self.consumed
        whole, rest = divmod(max(0, left), self.batch_size * self.world_size)
        return whole + (0 if self.drop_last or not rest else 1)

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; each has an order of its own."""
        self.epoch, self.consumed = epoch, 0

    def state_dict(self, *, batches: int = 0) -> dict[str, Any]:
        """Where to resume: after `batches` more batches of this epoch than at the last load or set_epoch.

        A DataLoader reads ahead, so only the loop knows how many batches it has used.
        """
        used = self.consumed + batches * self.batch_size * self.world_size
        return {"seed": self.seed, "epoch": self.epoch, "consumed": min(used, len(self.rows))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` says, under any batch size and number of ranks.

        Raises ConfigError for the state of another seed.
        """
        if state["seed"] != self.seed:
            raise ConfigError(
                f"The state is of seed {state['seed']}, this dataset has {self.seed}."
            )
        self.epoch, self.consumed = int(state["epoch"]), int(state["consumed"])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()
        for rows in cut_batches(
            self._order(),
            batch_size=self.batch_size,
            start=self.consumed,
            rank=self.rank,
            world_size=self.world_size,
            worker=0 if worker is None else worker.id,
            workers=1 if worker is None else worker.num_workers,
            drop_last=self.drop_last,
        ):
            yield self.rows.gather(rows, seed=self.seed, epoch=self.epoch)

    def _order(self) -> npt.NDArray[np.int64]:
        if not self.shuffle:
            return np.arange(len(self.rows), dtype=np.int64)
        return permute(len(self.rows), seed=self.seed, epoch=self.epoch)


def _weights(folders: Folders) -> dict[Path, float]:
    if isinstance(folders, (str, Path)):
        folders = [folders]
    pairs = folders.items() if isinstance(folders, Mapping) else ((each, 1.0) for each in folders)
    weights = {Path(folder).expanduser(): float(weight) for folder, weight in pairs}
    if not weights or not all(0 < weight < float("inf") for weight in weights.values()):
        raise ConfigError(f"folders is {folders!r}: give at least one, each with a weight above 0.")
    return weights


def _repeat(rows: int, weight: float) -> npt.NDArray[np.int64]:
    """Each row floor(weight) times, and the share that is left of all of them once more."""
    whole, share = int(weight), weight - int(weight)
    chosen = np.sort(permute(rows, seed=0, epoch=-1)[: round(rows * share)])
    return np.concatenate([np.tile(np.arange(rows, dtype=np.int64), whole), chosen])


def _check_alike(readers: Sequence[ShardReader]) -> None:
    def facts(reader: ShardReader) -> dict[str, Any]:
        index = reader.index
        return {
            "token ids a caption": index.text_seq_len,
            "codes an image": index.num_codes,
            "codebook": index.codec.fingerprint,
            "tokenizer": index.tokenizer.fingerprint,
        }

    first = readers[0]
    for other in readers[1:]:
        for name, value in facts(first).items():
            if facts(other)[name] != value:
                raise ConfigError(
                    f"{other.folder} doesn't fit {first.folder}: {name} is {facts(other)[name]}, not {value}."
                )


def _distributed() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
