"""What sharding takes: its disk and its memory. Its time is judged by the first shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from pipeline.core.estimate import Estimate, memory_so_far
from pipeline.core.kept_images import read_tables
from pipeline.shard.config import ShardConfig
from pipeline.shard.inputs import Inputs
from pipeline.webdata.tar import member_bytes

_BATCH_ROWS = 65_536
# Of a sample: its caption and its record, the heads of two arrays; in memory (see `join`).
_TEXT_BYTES, _ARRAY_HEAD = (60, 420), 128
_SAMPLE_MEMORY_BYTES = 130
_TABLE_BYTES = 16  # of a member in a table of offsets


def estimate_shards(config: ShardConfig, inputs: Inputs, folder: Path) -> Estimate:
    """The work of writing all kept images, each with one caption."""
    images = sum(entry.rows or 0 for entry in inputs.kept.entries)
    tokens = config.text_seq_len * np.dtype(inputs.tokens_dtype).itemsize
    codes = 2 * inputs.num_codes * len(inputs.views)
    members = [*_TEXT_BYTES, _ARRAY_HEAD + tokens, _ARRAY_HEAD + codes]
    sample = sum(member_bytes(size) + _TABLE_BYTES for size in members)
    # While they are joined, texts, token ids and codes are in scratch files, too.
    scratch = sum(_TEXT_BYTES) + tokens + codes
    return Estimate(
        stage="shard",
        work=f"write {images:,} images with captions and codes"
        + (f", as {config.images}" if config.reads_images else ""),
        folder=folder,
        disk_bytes=images * (sample + scratch) + _image_bytes(config, inputs, images),
        memory_bytes=memory_so_far() + images * _SAMPLE_MEMORY_BYTES,
    )


def _image_bytes(config: ShardConfig, inputs: Inputs, images: int) -> int:
    """The bytes of the images in shards, if they are there, as large as they were fetched."""
    if not config.reads_images:
        return 0
    batches = read_tables(inputs.kept.paths, ("bytes",), _BATCH_ROWS)
    stored = sum(int(pc.sum(batch["bytes"]).as_py() or 0) for batch in batches)
    return stored + images * member_bytes(0)
