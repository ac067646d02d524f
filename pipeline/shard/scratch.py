"""What a run leaves behind while it works, so that a killed one ends in the same bytes.

`shards/<name>/scratch/` holds the base, i.e. the keys of every shard that the last finished run left,
with the lineage they belong to; the notes of finished shards; and the files that rows wait in. The
base is written before anything else changes and goes just before the manifest comes: in between,
whatever happens to the shards, it says what stood there.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core import ownership
from pipeline.core.contracts import SPLITS, Split
from pipeline.core.errors import ContractError
from pipeline.core.storage import atomic_write
from pipeline.shard.layout import Keys
from pipeline.webdata.index import ShardEntry, ShardIndex, read_index
from pipeline.webdata.keys import salvage_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The shards that the last finished run left: the keys of each, and its entry in the index.

    `keys` are none where those of a damaged shard are lost: all is laid out anew then.
    """

    keys: Mapping[Split, Sequence[Keys]]
    entries: Mapping[Split, Sequence[ShardEntry]]


_NOTHING = Base(dict.fromkeys(SPLITS, ()), dict.fromkeys(SPLITS, ()))


class Scratch:
    """The scratch folder of `folder`, for a run of this `lineage`."""

    def __init__(self, folder: Path, lineage: str) -> None:
        self.path = folder / "scratch"
        self.done = self.path / "done"
        self._folder = folder
        self._lineage = lineage
        self._base_path = self.path / "base.npz"

    def begin(self) -> Base:
        """Mark the folder unfinished and say what is there to build on.

        Shards of another lineage are removed. Raises WorkspaceError for a folder that is not ours.
        """
        index = self._read_index()
        base = self._load(index)
        if base is None and index is None:
            ownership.begin_anew(self._folder, "shards")
        else:
            ownership.reopen(self._folder, "shards")
        if base is None:
            base = self._look(index)
            self._save(base)
        self.done.mkdir(parents=True, exist_ok=True)
        return base

    def end(self) -> None:
        """Remove everything: the index is written, the manifest comes next."""
        self._base_path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _read_index(self) -> ShardIndex | None:
        try:
            index = read_index(self._folder)
        except ContractError:
            return None
        return index if index.lineage == self._lineage else None

    def _load(self, index: ShardIndex | None) -> Base | None:
        """The base that a killed run of this lineage saved."""
        try:
            with np.load(self._base_path, allow_pickle=False) as saved:
                if str(saved["lineage"]) != self._lineage:
                    return None
                keys = {s: [saved[f"{s}-{n}"] for n in range(int(saved[s]))] for s in SPLITS}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        return Base(keys, index.shards if index else _NOTHING.entries)

    def _look(self, index: ShardIndex | None) -> Base:
        """The base as the shards themselves give it, damaged ones among them."""
        if index is None:
            return _NOTHING
        keys: dict[Split, list[Keys]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for entry in index.shards[split]:
                found = salvage_keys(self._folder, entry)
                if found is None:
                    logger.warning(
                        "Everything is laid out anew: which samples %s held is lost.", entry.url
                    )
                    return Base(_NOTHING.keys, index.shards)
                keys[split].append(found)
        return Base(keys, index.shards)

    def _save(self, base: Base) -> None:
        arrays = {f"{s}-{n}": keys for s in SPLITS for n, keys in enumerate(base.keys[s])}
        numbers = {split: np.array(len(base.keys[split])) for split in SPLITS}
        with atomic_write(self._base_path) as file:
            np.savez(file, allow_pickle=False, lineage=np.array(self._lineage), **numbers, **arrays)
