"""`index.json`: what a set of shards holds, and how to know that it is whole.

A JSON object that `wids` reads too (`wids_version`, `shardlist`: the training shards); validation
shards stand in `shardlist_val`. Written after all shards; it lists each tar and its table of
offsets with bytes and sha256.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.contracts import CONTRACT_VERSIONS, SPLITS, Split
from pipeline.errors import ContractError
from pipeline.ownership import path_inside
from pipeline.storage import write_json

INDEX_NAME = "index.json"
FORMAT = {"format": "dalle-pipeline/shards", "version": CONTRACT_VERSIONS["shards"]}
IMAGE_MEMBER = "image"
_LISTS: Mapping[Split, str] = {"train": "shardlist", "val": "shardlist_val"}


@dataclass(frozen=True, kw_only=True)
class CodecRef:
    """The codec that made the codes."""

    name: str
    fingerprint: str
    image_size: int


@dataclass(frozen=True, kw_only=True)
class TokenizerRef:
    """The tokenizer that made the token ids; `file` lies beside the index."""

    fingerprint: str
    file: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar and its table of offsets; paths are relative to the index, names are wids'.

    `recipe` is a hash of the samples that went in, in order: a rebuild compares it.
    """

    url: str
    nsamples: int
    filesize: int
    sha256: str
    table: str
    table_bytes: int
    table_sha256: str
    recipe: str


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """What a reader must know before it opens a shard.

    `grid` is (rows, columns) of the codes of a view, rows × columns = `num_codes`. With one of `views`
    codes.npy is [num_codes], with more it is [views, num_codes]; `members` names
    the columns of the tables of offsets, where `image` stands for png, jpg…; dtypes are numpy's.
    `lineage` is a hash of all that decides a sample's bytes beside the sample itself.
    """

    name: str
    text_seq_len: int
    num_codes: int
    codebook_size: int
    vocab_size: int
    grid: tuple[int, int]
    codec: CodecRef
    tokenizer: TokenizerRef
    members: tuple[str, ...]
    tokens_dtype: str
    codes_dtype: str
    lineage: str
    shards: Mapping[Split, tuple[ShardEntry, ...]]
    views: tuple[str, ...] = ("center",)

    @property
    def samples(self) -> dict[Split, int]:
        """Samples of each split."""
        return {s: sum(entry.nsamples for entry in self.shards[s]) for s in SPLITS}


def codes_shape(views: Sequence[str], num_codes: int) -> tuple[int, ...]:
    """The shape of codes.npy: [num_codes] of one view, [views, num_codes] of several."""
    return (num_codes,) if len(views) == 1 else (len(views), num_codes)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write `index.json` atomically; the shards it lists must be there already."""
    body = asdict(index)
    shards = body.pop("shards")
    head = {"wids_version": 1, **FORMAT}
    lists = {_LISTS[split]: list(shards[split]) for split in SPLITS}
    write_json(folder / INDEX_NAME, {**head, **body, **lists, "samples": index.samples})


def read_index(folder: Path) -> ShardIndex:
    """Read `index.json`.

    Raises ContractError where there is none, or where it is not ours or of another version, or names
    files outside of `folder`.
    """
    path = folder / INDEX_NAME
    try:
        raw = json.loads(path.read_bytes())
        if {name: raw[name] for name in FORMAT} != FORMAT:
            raise ValueError(f"format {raw['format']!r} version {raw['version']!r}")
        index = _parse(raw)
    except (FileNotFoundError, NotADirectoryError):
        raise ContractError(
            f"{folder} has no {INDEX_NAME}: no finished shards there. Run `pipeline shard` first."
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(
            f"{path} is not an index of this version of the pipeline ({error!r}). "
            "Run `pipeline shard` again."
        ) from error
    _check_paths(index, folder)
    return index


def _check_paths(index: ShardIndex, folder: Path) -> None:
    """Raise ContractError for a file that is named twice, lies outside of `folder` or is no regular one."""
    entries = [entry for split in SPLITS for entry in index.shards[split]]
    times = Counter(name for entry in entries for name in (entry.url, entry.table))
    times[index.tokenizer.file] += 1
    for name, count in times.items():
        path_inside(folder, name, source=folder / INDEX_NAME)
        if count > 1:
            raise ContractError(
                f"{folder / INDEX_NAME} names the file {name!r} twice. Run `pipeline shard` again."
            )


def _parse(raw: dict[str, Any]) -> ShardIndex:
    rows, columns = raw["grid"]
    shards = {s: tuple(ShardEntry(**entry) for entry in raw[_LISTS[s]]) for s in SPLITS}
    plain = ("name", "text_seq_len", "num_codes", "codebook_size", "vocab_size")
    return ShardIndex(
        **{field: raw[field] for field in plain},
        grid=(rows, columns),
        views=tuple(raw.get("views", ["center"])),
        codec=CodecRef(**raw["codec"]),
        tokenizer=TokenizerRef(**raw["tokenizer"]),
        members=tuple(raw["members"]),
        tokens_dtype=raw["tokens_dtype"],
        codes_dtype=raw["codes_dtype"],
        lineage=raw["lineage"],
        shards=shards,
    )
