"""Options of `pipeline shard`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.core.config import option
from pipeline.core.engine_config import EngineConfig


@dataclass(frozen=True, kw_only=True)
class ShardConfig(EngineConfig):
    """Which samples go into the shards, in what form and order."""

    name: str = option("default", "Name of the shards: shards/NAME in the workspace.")
    codec: str | None = option(
        None,
        "Codes to use: NAME or NAME-HASH in codes/ (default: the latest, or the only ones). With "
        "--encode-vqgan: the codec, as for encode.",
    )
    encode_vqgan: bool = option(
        False,
        "Run encode first, with its own options and the --codec and --vqgan options given here, and shard "
        "those codes.",
        runtime=True,
    )
    vqgan_config: Path | None = option(
        None, "With --encode-vqgan: YAML of a taming-transformers VQGAN.", runtime=True
    )
    vqgan_checkpoint: Path | None = option(
        None, "With --encode-vqgan: checkpoint for --vqgan-config.", runtime=True
    )
    tokenizer: str | None = option(
        None,
        "A tokenizer of the workspace by name (default: the latest), or clip, clip:FILE, hf:FILE (a "
        "tokenizers JSON), yttm:FILE (a vocab.bpe).",
    )
    text_seq_len: int = option(
        256, "Token ids per caption; shorter captions are padded with 0.", low=1, high=65_536
    )
    long_captions: Literal["truncate", "reject", "fail"] = option(
        "truncate",
        "What to do with captions of more tokens: truncate them, leave them out (reject), or stop (fail).",
    )
    caption_choice: Literal["first", "all", "random"] = option(
        "first",
        "For images with several captions: a sample with the first, a sample with each (all), or a sample "
        "with one drawn by --caption-seed (random).",
        omit_default=True,
    )
    caption_seed: int = option(
        0,
        "Seed of --caption-choice random.",
        low=-(2**63),
        high=2**63 - 1,
        omit_default=True,
    )
    images: str = option(
        "none",
        "Images to include: none, original (the files as fetched), png (the encoded pixels, lossless) or "
        "jpg:QUALITY (the encoded pixels as JPEG, such as jpg:90).",
    )
    order: Literal["shuffled", "sorted"] = option(
        "shuffled", "Shuffled by the seed, with a caption's images spread out, or sorted by key."
    )
    shuffle_seed: int = option(0, "Seed of the shuffled order.", low=-(2**63), high=2**63 - 1)
    max_samples: int = option(10_000, "Maximum samples per shard.", low=1)
    max_bytes: int = option(1_000_000_000, "Maximum bytes per shard.", low=1024)
    out: str | None = option(
        None,
        "Also copy the finished shards to this URL: s3://BUCKET/PREFIX (extra s3), gs://BUCKET/PREFIX "
        "(extra gcs), or any other fsspec URL.",
        runtime=True,
        remember=True,
    )
    inspect: tuple[str, str] | None = option(
        None,
        "Print one sample, given as SHARD KEY, and write its image beside the image decoded from its codes "
        "(to --out, a PNG).",
        runtime=True,
    )
    workers: int | None = option(
        None,
        "Threads that read and convert images, or tasks on Ray (default: one per core).",
        low=1,
        runtime=True,
    )

    @property
    def reads_images(self) -> bool:
        """Whether images are read and converted, which is what engines and workers are for."""
        return self.images != "none"
