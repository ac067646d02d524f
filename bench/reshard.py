"""Re-sharding a dataset of the blog's size that is encoded already: seconds and memory.

    python bench/reshard.py [--images 1100000] [--folder DIR]

Makes kept and codes tables by the contracts (made-up captions, URLs, hashes and codes; 32 images a
caption, 256 codes an image), then runs `pipeline shard` on them in a process of its own, as a user
would, and once more to see that it finds nothing to do. Needs about 7 GB of disk for 1.1 million.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.contracts import CODES, KEPT
from pipeline.core.storage import (
    arrow_schema,
    file_entry,
    make_manifest,
    sha256_bytes,
    write_bytes,
    write_manifest,
)
from pipeline.core.workspace import Workspace
from pipeline.models.tokenizers.load import TOKENIZER_FILE, train_bpe

IMAGES_A_CAPTION, NUM_CODES, NUM_TOKENS = 32, 256, 16384
PART = 32 * 1250  # images of a table
FINGERPRINT = "f" * 64


def caption_of(number: int) -> str:
    """A caption like the blog's, another for every number."""
    one, other = number % 97, number // 97
    return (
        f"a professional high quality illustration of a {one} {other} chimera. a {number} chimera."
    )


def hex_of(number: int) -> str:
    """A stand-in for the sha256 of an image's pixels; their order is that of the numbers' hashes."""
    return sha256_bytes(number.to_bytes(8, "big"))


def kept_part(start: int, stop: int, hashes: list[str]) -> pa.Table:
    """Kept images `start`..`stop`-1 by the contract; columns that `shard` does not read are null."""
    numbers = range(start, stop)
    captions = [caption_of(n // IMAGES_A_CAPTION) for n in numbers]
    ids = [f"{n // IMAGES_A_CAPTION:016x}" for n in numbers]
    columns: dict[str, Any] = {
        "key": [f"chimeras-{i}-{n % 32:02d}" for i, n in zip(ids, numbers, strict=True)],
        "url": [
            f"https://cdn.example.com/dall-e/v2/samples/chimeras/{n:064x}_{n % 32}.png"
            for n in numbers
        ],
        "source": ["dalleblog"] * len(numbers),
        "section": ["chimeras"] * len(numbers),
        "caption_id": ids,
        "caption": captions,
        "caption_normalized": captions,
        "rank": [n % 32 for n in numbers],
        "bytes_sha256": hashes,
        "pixel_sha256": hashes,
        "width": [256] * len(numbers),
        "height": [256] * len(numbers),
        "masked_rows": [0] * len(numbers),
        "split": ["val" if n // IMAGES_A_CAPTION % 100 == 0 else "train" for n in numbers],
    }
    schema = arrow_schema(KEPT)
    nulls = {f.name: pa.nulls(len(numbers), f.type) for f in schema if f.name not in columns}
    return pa.table({f.name: columns.get(f.name, nulls.get(f.name)) for f in schema}, schema=schema)


def write_kept(workspace: Workspace, images: int) -> list[str]:
    """Write the kept tables; returns the pixel hashes."""
    hashes = [hex_of(number) for number in range(images)]
    files = []
    for part, start in enumerate(range(0, images, PART)):
        stop = min(start + PART, images)
        path = workspace.dedupe / "kept" / f"{part:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(kept_part(start, stop, hashes[start:stop]), path)
        files.append(file_entry(path, workspace.dedupe, rows=stop - start))
    declare("dedupe", workspace.dedupe, files)
    return hashes


def write_codes(workspace: Workspace, hashes: list[str]) -> None:
    """Write codes in the order of the hashes, in tables of 10,000, as `encode` does."""
    folder = workspace.codes("bench", FINGERPRINT)
    folder.mkdir(parents=True, exist_ok=True)
    rng, ordered, files = np.random.default_rng(0), sorted(hashes), []
    for part, start in enumerate(range(0, len(ordered), 10_000)):
        names = ordered[start : start + 10_000]
        codes = pa.array(rng.integers(0, NUM_TOKENS, len(names) * NUM_CODES).astype(np.uint16))
        offsets = pa.array(np.arange(len(names) + 1, dtype=np.int32) * NUM_CODES)
        columns = [
            pa.array(names),
            pa.array(["center"] * len(names)),
            pa.ListArray.from_arrays(offsets, codes),
        ]
        path = folder / f"{part:05d}.parquet"
        pq.write_table(
            pa.Table.from_arrays(columns, schema=arrow_schema(CODES)), path, compression="zstd"
        )
        files.append(file_entry(path, folder, rows=len(names)))
    codec = {
        "name": "bench",
        "fingerprint": FINGERPRINT,
        "num_tokens": NUM_TOKENS,
        "image_size": 256,
        "grid": [16, 16],
    }
    declare("codes", folder, files, codec=codec)


def write_tokenizer(workspace: Workspace) -> None:
    """A BPE of the captions."""
    folder = workspace.tokenizer("bpe")
    tokenizer = train_bpe([caption_of(number) for number in range(5000)], 2048)
    write_bytes(folder / TOKENIZER_FILE, tokenizer.json_bytes)
    declare("tokenizer", folder, [file_entry(folder / TOKENIZER_FILE, folder)])


def declare(contract: str, folder: Path, files: list[Any], **details: Any) -> None:
    """Write a manifest."""
    manifest = make_manifest(
        contract, config={}, inputs={}, counts={}, files=tuple(files), details=details
    )
    write_manifest(folder, manifest)


def shard(workspace: Workspace) -> tuple[float, float, float]:
    """Run `pipeline shard`: seconds by the clock, of the processor, and the most memory in MB so far."""
    program = [sys.executable, "-m", "pipeline", "shard", "--workspace", str(workspace.root)]
    root = str(Path(__file__).parents[1])
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [*program, "--text-seq-len", "96", "--quiet"],
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - began, cpu, after.ru_maxrss / 1024


def main() -> None:
    """Make the tables if they are not there, shard twice, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1_100_000)
    parser.add_argument(
        "--folder", type=Path, help="a new folder, or one whose tables are there (default: in /tmp)"
    )
    parser.add_argument("--only-make", action="store_true", help="make the tables, shard nothing")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = Workspace(options.folder or Path(name)).open(source="dalleblog")
        if not workspace.tokenizer("bpe").exists():
            write_codes(workspace, write_kept(workspace, options.images))
            write_tokenizer(workspace)
        if not options.only_make:
            measure(workspace, options.images)


def measure(workspace: Workspace, images: int) -> None:
    """Shard from nothing, shard again, print."""
    shutil.rmtree(workspace.root / "shards", ignore_errors=True)
    for title in ("shard", "again, nothing to do"):
        seconds, cpu, memory = shard(workspace)
        print(
            f"{title:24s}{seconds:8.1f} s {cpu:8.1f} s of CPU {memory:7.0f} MB"
            f"{images / seconds:12,.0f} images/s",
            flush=True,
        )
    tars = list(workspace.shards("default").rglob("*.tar"))
    size = sum(path.stat().st_size for path in tars)
    print(f"{len(tars)} shards, {size / images:,.0f} bytes a sample")


if __name__ == "__main__":
    main()
