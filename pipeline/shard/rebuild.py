"""Rebuild the index of finished shards from their tars and their manifest."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core.contracts import SHARD_MEMBERS, SPLITS, FileEntry, Manifest, Split
from pipeline.core.errors import ContractError
from pipeline.core.integrity import checked_files
from pipeline.core.parsing import parse_dataclass
from pipeline.core.storage import MANIFEST_NAME, sha256_bytes
from pipeline.shard.config import ShardConfig
from pipeline.shard.inputs import find_inputs
from pipeline.shard.run import make_index
from pipeline.shard.write import extend_recipe
from pipeline.webdata.index import INDEX_NAME, ShardEntry, index_bytes
from pipeline.webdata.keys import read_keys, read_table
from pipeline.webdata.tar import table_path


def rebuild_index(root: Path, folder: Path, manifest: Manifest) -> bytes:
    """The bytes of the `index.json` that the manifest of `folder` lists.

    Reads the shards once. Raises PipelineError if a shard is damaged, or if the codes or the tokenizer that
    the shards were made from have changed: the result is the original index or nothing.
    """
    source = str(folder / MANIFEST_NAME)
    values = {**manifest.config, "workspace": str(root)}
    config = parse_dataclass(ShardConfig, values, source=source)
    listed = {entry.path: entry for entry in manifest.files}
    shards = {split: _find_shards(folder, split, listed) for split in SPLITS}
    data = index_bytes(make_index(config, find_inputs(config), shards))
    wanted = listed.get(INDEX_NAME)
    if wanted is None or sha256_bytes(data) != wanted.sha256:
        raise ContractError(f"{folder / INDEX_NAME} can't be rebuilt from the current inputs.")
    return data


def _find_shards(
    folder: Path, split: Split, listed: Mapping[str, FileEntry]
) -> Sequence[ShardEntry]:
    tars = sorted(p for p in listed if p.startswith(f"{split}/") and p.endswith(".tar"))
    return [_describe(folder, listed[tar], listed) for tar in tars]


def _describe(folder: Path, tar: FileEntry, listed: Mapping[str, FileEntry]) -> ShardEntry:
    name = table_path(Path(tar.path)).as_posix()
    table = listed.get(name)
    if table is None or tar.rows is None:
        raise ContractError(f"{folder / MANIFEST_NAME} does not describe {tar.path}.")
    checked_files(folder, (tar, table))
    entry = ShardEntry(
        url=tar.path,
        nsamples=tar.rows,
        filesize=tar.bytes,
        sha256=tar.sha256,
        table=table.path,
        table_bytes=table.bytes,
        table_sha256=table.sha256,
        recipe="",
    )
    return dataclasses.replace(entry, recipe=_recipe_of(folder, entry))


def _recipe_of(folder: Path, entry: ShardEntry) -> str:
    recipe = hashlib.sha256()
    places = read_table(folder, entry)[:, : len(SHARD_MEMBERS)].tolist()
    with (folder / entry.url).open("rb") as file:
        for key, members in zip(read_keys(folder, entry), places, strict=True):
            caption, record, tokens, codes = (
                os.pread(file.fileno(), size, start) for start, size in members
            )
            extend_recipe(recipe, key, caption, record, _values(tokens), _values(codes))
    return recipe.hexdigest()


def _values(npy: bytes) -> bytes:
    """The values of an array in the format npy 1.0, without its header."""
    return npy[10 + int.from_bytes(npy[8:10], "little") :]
