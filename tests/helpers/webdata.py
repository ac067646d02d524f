"""Small sets of shards, written directly with the parts of the format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.core.contracts import SHARD_MEMBERS, Split
from pipeline.core.storage import sha256_file
from pipeline.webdata.index import CodecRef, ShardEntry, ShardIndex, TokenizerRef, write_index
from pipeline.webdata.npy import npy_header
from pipeline.webdata.tar import open_shard, table_path

TEXT_SEQ_LEN, NUM_CODES, VOCAB_SIZE, CODEBOOK_SIZE = 12, 16, 300, 512


def encode_npy(array: npt.NDArray[np.generic]) -> bytes:
    """A non-empty array as the bytes of an `.npy` file, as `shard` writes it."""
    return npy_header(array.dtype.str, *array.shape) + array.tobytes()


def tokens_of(number: int) -> Any:
    return np.random.default_rng(number).integers(0, VOCAB_SIZE, TEXT_SEQ_LEN).astype("<u2")


def codes_of(number: int) -> Any:
    return np.random.default_rng(number + 10**6).integers(0, CODEBOOK_SIZE, NUM_CODES).astype("<u2")


def write_shard(folder: Path, split: Split, shard: int, numbers: range) -> ShardEntry:
    path = folder / split / f"{shard:06d}.tar"
    with open_shard(path, len(SHARD_MEMBERS)) as writer:
        for number in numbers:
            record = json.dumps({"number": number})
            contents = (
                f"caption é {number}".encode(),
                record.encode(),
                encode_npy(tokens_of(number)),
                encode_npy(codes_of(number)),
            )
            writer.add(f"key_{number:04d}", list(zip(SHARD_MEMBERS, contents, strict=True)))
    table = table_path(path)
    return ShardEntry(
        url=path.relative_to(folder).as_posix(),
        nsamples=len(numbers),
        filesize=path.stat().st_size,
        sha256=writer.sha256,
        table=table.relative_to(folder).as_posix(),
        table_bytes=table.stat().st_size,
        table_sha256=sha256_file(table),
        recipe="0" * 64,
    )


def write_shards(folder: Path, sizes: tuple[int, ...] = (10, 10, 7), val: int = 3) -> Path:
    starts = np.cumsum((0, *sizes)).tolist()
    train = [
        write_shard(folder, "train", n, range(starts[n], starts[n + 1])) for n in range(len(sizes))
    ]
    shards: dict[Split, tuple[ShardEntry, ...]] = {
        "train": tuple(train),
        "val": (write_shard(folder, "val", 0, range(1000, 1000 + val)),),
    }
    index = ShardIndex(
        name="small",
        text_seq_len=TEXT_SEQ_LEN,
        num_codes=NUM_CODES,
        codebook_size=CODEBOOK_SIZE,
        vocab_size=VOCAB_SIZE,
        grid=(4, 4),
        codec=CodecRef(name="tiny", fingerprint="f" * 64, image_size=16),
        tokenizer=TokenizerRef(fingerprint="a" * 64, file="tokenizer.json"),
        members=SHARD_MEMBERS,
        tokens_dtype="<u2",
        codes_dtype="<u2",
        lineage="0" * 64,
        shards=shards,
    )
    write_index(folder, index)
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """27 training samples in three shards, 3 for validation."""
    return write_shards(tmp_path / "shards")


@pytest.fixture
def expected() -> Callable[[int], tuple[Any, Any]]:
    """Token ids and codes of a sample by its number."""
    return lambda number: (tokens_of(number), codes_of(number))
