"""Options of `pipeline shard`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class ShardConfig(StageConfig):
    """What `shard.run` is told."""

    name: str = option("default", "Name of the shards: shards/NAME in the workspace.")
    codec: str | None = option(
        None,
        "Which codes: NAME or NAME-HASH in codes/ (default: the latest, or the only ones there). With "
        "--encode-vqgan: what to encode with, as --codec of `pipeline encode`.",
    )
    encode_vqgan: bool = option(
        False,
        "Encode first, as `pipeline encode` with its own options and the three beside this one would, "
        "and make shards of just those codes.",
        runtime=True,
    )
    vqgan_config: Path | None = option(
        None, "With --encode-vqgan: YAML of a taming VQGAN.", runtime=True
    )
    vqgan_checkpoint: Path | None = option(
        None, "With --encode-vqgan: the checkpoint that belongs to --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "A tokenizer of this workspace by name (default: the latest), or clip, clip:FILE, hf:FILE (a "
        "tokenizers JSON), yttm:FILE (a vocab.bpe).",
    )
    text_seq_len: int = option(
        256, "Token ids a caption; shorter ones are padded with 0.", low=1, high=65_536
    )
    long_captions: Literal["truncate", "reject", "fail"] = option(
        "truncate", "What to do with captions of more ids."
    )
    images: str = option(
        "none",
        "Images in the shards: none; original, the files as fetched; png, the pixels that were encoded, "
        "without loss; or jpg:QUALITY, the same pixels as JPEG (jpg:90).",
    )
    order: Literal["shuffled", "sorted"] = option(
        "shuffled", "By the seed, with a caption's images spread out, or sorted by key."
    )
    shuffle_seed: int = option(0, "Seed of the shuffled order.", low=-(2**63), high=2**63 - 1)
    max_samples: int = option(10_000, "Samples a shard at most.", low=1)
    max_bytes: int = option(1_000_000_000, "Bytes a shard at most.", low=1024)
    out: str | None = option(
        None,
        "Copy the finished shards to this address too: s3://BUCKET/PREFIX, gs://…, any of fsspec.",
        runtime=True,
        remember=True,
    )
    inspect: tuple[str, str] | None = option(
        None,
        "Show one sample, SHARD KEY, and write its image beside what its codes decode to (to --out, a PNG).",
        runtime=True,
    )
    workers: int | None = option(
        None,
        "Threads that read and convert images; one a core if not given.",
        low=1,
        runtime=True,
    )
