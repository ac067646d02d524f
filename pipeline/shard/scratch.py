"""Scratch files of a run, with which a killed run can be resumed to the same bytes.

`shards/<name>/scratch/` holds the base (the keys of every shard of the last finished run, and the lineage
they belong to), the notes about finished shards, and the files with waiting rows. The base is written before
anything else changes and removed just before the manifest is written: until then it describes the previous
shards, whatever happens to them.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.artifact import Artifact
from pipeline.core.contracts import SPLITS, Split
from pipeline.core.errors import ContractError
from pipeline.core.storage import atomic_write
from pipeline.shard.layout import Keys
from pipeline.webdata.index import ShardEntry, ShardIndex, read_index
from pipeline.webdata.keys import salvage_keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Base:
    """The shards of the last finished run: the keys of each, and its entry in the index.

    There are no `keys` if those of a damaged shard are lost: then all samples are assigned again.
    """

    keys: Mapping[Split, Sequence[Keys]]
    entries: Mapping[Split, Sequence[ShardEntry]]


_NOTHING = Base(dict.fromkeys(SPLITS, ()), dict.fromkeys(SPLITS, ()))


class Scratch:
    """The scratch folder of shards, for a run of this `lineage`."""

    def __init__(self, out: Artifact, lineage: str) -> None:
        self.path = out.folder / "scratch"
        self.done = self.path / "done"
        self._out = out
        self._folder = out.folder
        self._lineage = lineage
        self._base_path = self.path / "base.npz"

    def begin(self) -> Base:
        """Mark the folder unfinished and return the existing shards to build on.

        Shards of another lineage are removed. Raises WorkspaceError for a folder that is not ours.
        """
        index = self._read_index()
        base = self._load(index)
        if base is None and index is None:
            self._out.start_over()
        else:
            self._out.reopen()
        if base is None:
            base = self._read_base(index)
            self._save(base)
        self.done.mkdir(parents=True, exist_ok=True)
        return base

    def end(self) -> None:
        """Remove everything; called after the index and before the manifest is written."""
        self._base_path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def _read_index(self) -> ShardIndex | None:
        try:
            index = read_index(self._folder)
        except ContractError:
            return None
        return index if index.lineage == self._lineage else None

    def _load(self, index: ShardIndex | None) -> Base | None:
        """The base saved by a killed run of this lineage."""
        try:
            with np.load(self._base_path, allow_pickle=False) as saved:
                if str(saved["lineage"]) != self._lineage:
                    return None
                keys = {s: [saved[f"{s}-{n}"] for n in range(int(saved[s]))] for s in SPLITS}
        except (OSError, KeyError, ValueError, zipfile.BadZipFile):
            return None
        return Base(keys, index.shards if index else _NOTHING.entries)

    def _read_base(self, index: ShardIndex | None) -> Base:
        """The base read from the shards themselves, including damaged ones."""
        if index is None:
            return _NOTHING
        keys: dict[Split, list[Keys]] = {split: [] for split in SPLITS}
        for split in SPLITS:
            for entry in index.shards[split]:
                found = salvage_keys(self._folder, entry)
                if found is None:
                    logger.warning(
                        "All samples are assigned to shards again: the keys of %s are lost.",
                        entry.url,
                    )
                    return Base(_NOTHING.keys, index.shards)
                keys[split].append(found)
        return Base(keys, index.shards)

    def _save(self, base: Base) -> None:
        arrays = {f"{s}-{n}": keys for s in SPLITS for n, keys in enumerate(base.keys[s])}
        numbers = {split: np.array(len(base.keys[split])) for split in SPLITS}
        with atomic_write(self._base_path) as file:
            np.savez(file, allow_pickle=False, lineage=np.array(self._lineage), **numbers, **arrays)
