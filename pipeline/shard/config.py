"""Options of `pipeline shard`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import StageConfig, option


@dataclass(frozen=True, kw_only=True)
class ShardConfig(StageConfig):
    """Which samples go into the shards, in what form and order."""

    name: str = option("default", "Name of the shards: shards/NAME in the workspace.")
    codec: str | None = option(
        None,
        "The codes to use: NAME or NAME-HASH in codes/ (default: the latest, or the only ones). With "
        "--encode-vqgan: the codec to encode with, as for --codec of `pipeline encode`.",
    )
    encode_vqgan: bool = option(
        False,
        "Encode first, as `pipeline encode` would with its own options and the three beside this one, "
        "and make shards of exactly those codes.",
        runtime=True,
    )
    vqgan_config: Path | None = option(
        None, "With --encode-vqgan: YAML of a taming VQGAN.", runtime=True
    )
    vqgan_checkpoint: Path | None = option(
        None, "With --encode-vqgan: the checkpoint for --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "A tokenizer of this workspace by name (default: the latest), or clip, clip:FILE, hf:FILE (a JSON "
        "file of the tokenizers library), yttm:FILE (a vocab.bpe).",
    )
    text_seq_len: int = option(
        256, "Token ids per caption; shorter captions are padded with 0.", low=1, high=65_536
    )
    long_captions: Literal["truncate", "reject", "fail"] = option(
        "truncate", "What to do with captions of more token ids."
    )
    images: str = option(
        "none",
        "Images in the shards: none; original, the files as fetched; png, the pixels that were encoded, "
        "lossless; or jpg:QUALITY, the same pixels as JPEG (jpg:90).",
    )
    order: Literal["shuffled", "sorted"] = option(
        "shuffled", "Shuffled by the seed with a caption's images spread out, or sorted by key."
    )
    shuffle_seed: int = option(0, "Seed of the shuffled order.", low=-(2**63), high=2**63 - 1)
    max_samples: int = option(10_000, "Maximum number of samples per shard.", low=1)
    max_bytes: int = option(1_000_000_000, "Maximum size of a shard, in bytes.", low=1024)
    out: str | None = option(
        None,
        "Also copy the finished shards to this URL: s3://BUCKET/PREFIX, gs://…, or any other of fsspec.",
        runtime=True,
        remember=True,
    )
    inspect: tuple[str, str] | None = option(
        None,
        "Print one sample, SHARD KEY, and write its image beside its decoded codes to a PNG (to --out).",
        runtime=True,
    )
    workers: int | None = option(
        None,
        "Threads that read and convert images. Default: one per core.",
        low=1,
        runtime=True,
    )
