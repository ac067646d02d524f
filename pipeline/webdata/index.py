"""`index.json`: the content of a set of shards, and what is needed to verify it.

A JSON object that `wids` can read, too (`wids_version`, `shardlist`: the training shards); validation shards
are in `shardlist_val`. It is written after all shards and lists each tar and its table of offsets with size
and sha256.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.core.contracts import SHARD_MEMBERS, SPLITS, Split
from pipeline.core.errors import REPAIR, ContractError
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_dataclass, parse_json_file
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import json_bytes, maker_of, write_bytes
from pipeline.core.suggestions import name_choices
from pipeline.webdata.npy import Dtype

INDEX_NAME = "index.json"
IMAGE_MEMBER = "image"
_LISTS: Mapping[Split, str] = {"train": "shardlist", "val": "shardlist_val"}
_NOT_NEGATIVE, _POSITIVE = {"low": 0}, {"low": 1, "high": 2**31}


@dataclass(frozen=True, kw_only=True)
class CodecRef:
    """The codec that made the codes."""

    name: str
    fingerprint: str
    image_size: int = field(metadata=_POSITIVE)


@dataclass(frozen=True, kw_only=True)
class TokenizerRef:
    """The tokenizer that made the token ids; `file` is beside the index."""

    fingerprint: str
    file: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """One tar and its table of offsets; paths are relative to the index, field names are those of wids.

    `recipe` is a hash of the samples in order; a later run compares it to decide whether to reuse the shard.
    """

    url: str
    nsamples: int = field(metadata=_NOT_NEGATIVE)
    filesize: int = field(metadata=_NOT_NEGATIVE)
    sha256: str
    table: str
    table_bytes: int = field(metadata=_NOT_NEGATIVE)
    table_sha256: str
    recipe: str


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """Everything that a reader must know before it opens a shard.

    `grid` is (rows, columns) of the codes of a view, with rows × columns = `num_codes`. With one of `views`
    codes.npy is [num_codes], with more it is [views, num_codes]. `members` names the columns of the tables of
    offsets, where `image` stands for png, jpg…; dtypes are numpy's. `lineage` is a hash of everything besides
    the samples that decides their bytes.
    """

    name: str
    text_seq_len: int = field(metadata=_POSITIVE)
    num_codes: int = field(metadata=_POSITIVE)
    codebook_size: int = field(metadata=_POSITIVE)
    vocab_size: int = field(metadata=_POSITIVE)
    grid: tuple[int, int] = field(metadata=_POSITIVE)
    codec: CodecRef
    tokenizer: TokenizerRef
    members: tuple[str, ...]
    tokens_dtype: Dtype
    codes_dtype: Dtype
    lineage: str
    shards: Mapping[Split, tuple[ShardEntry, ...]]
    views: tuple[str, ...] = ("center",)

    @property
    def samples(self) -> dict[Split, int]:
        """The number of samples in each split."""
        return {s: sum(entry.nsamples for entry in self.shards[s]) for s in SPLITS}


def codes_shape(views: Sequence[str], num_codes: int) -> tuple[int, ...]:
    """The shape of codes.npy: [num_codes] for one view, [views, num_codes] for several."""
    return (num_codes,) if len(views) == 1 else (len(views), num_codes)


def write_index(folder: Path, index: ShardIndex) -> None:
    """Write `index.json` atomically; the shards that it lists must exist already."""
    write_bytes(folder / INDEX_NAME, index_bytes(index))


def index_bytes(index: ShardIndex) -> bytes:
    """The bytes of `index.json`."""
    body = asdict(index)
    shards = body.pop("shards")
    head = {"wids_version": 1, **_format()}
    lists = {_LISTS[split]: list(shards[split]) for split in SPLITS}
    return json_bytes({**head, **body, **lists, "samples": index.samples})


def read_index(folder: Path) -> ShardIndex:
    """Read `index.json`.

    Raises ContractError if there is none, if it is damaged, not ours or of another version, or if it names
    files outside `folder`.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        there = [p.name for p in folder.parent.glob("*") if p.is_dir() and p != folder]
        hint = f"{name_choices(folder.name, there)} " if there else ""
        raise ContractError(
            f"{folder} has no {INDEX_NAME}: there are no finished shards. {hint}Run "
            f"{maker_of(folder, 'shards')} first."
        )
    raw: dict[str, Any] = parse_json_file(path, dict[str, Any], remedy=REPAIR)
    expected = _format()
    found = {name: raw.get(name) for name in expected}
    if found != expected:
        raise ContractError(
            f"{path} has format {found['format']!r} version {found['version']!r}, expected "
            f"{expected['format']!r} version {expected['version']}. {REPAIR}"
        )
    lists = {split: raw[name] for split, name in _LISTS.items() if name in raw}
    index = parse_dataclass(ShardIndex, {**raw, "shards": lists}, source=str(path), remedy=REPAIR)
    _check(index, path)
    _check_paths(index, folder)
    return index


def _check_paths(index: ShardIndex, folder: Path) -> None:
    """Raise ContractError for a file that is named twice, is outside `folder` or not a regular file."""
    entries = [entry for split in SPLITS for entry in index.shards[split]]
    times = Counter(name for entry in entries for name in (entry.url, entry.table))
    times[index.tokenizer.file] += 1
    for name, count in times.items():
        path_inside(folder, name, source=folder / INDEX_NAME)
        if count > 1:
            raise ContractError(f"{folder / INDEX_NAME} names the file {name!r} twice. {REPAIR}")


def _check(index: ShardIndex, path: Path) -> None:
    """Raise ContractError for fields that contradict each other."""
    rows, columns = index.grid
    lacking = [_LISTS[split] for split in SPLITS if split not in index.shards]
    faults = {
        f"{', '.join(lacking)} is missing, expected a list": bool(lacking),
        f"num_codes is {index.num_codes}, expected the grid's {rows} × {columns}": (
            rows * columns != index.num_codes
        ),
        "views is an empty list, expected at least one": not index.views,
        f"members is {list(index.members)}, expected {', '.join(SHARD_MEMBERS)} among them": (
            not set(SHARD_MEMBERS) <= set(index.members)
        ),
    }
    for fault, is_there in faults.items():
        if is_there:
            raise ContractError(f"{path}: {fault}. {REPAIR}")


def _format() -> dict[str, object]:
    """The fields that mark an index as ours."""
    return {"format": "dalle-pipeline/shards", "version": CONTRACTS["shards"].version}
