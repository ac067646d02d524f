"""How fast shards are written and read, beside `webdataset` and others on the same samples.

    python bench/shard.py [--samples 20000] [--repeats 3] [--folder DIR]

Prints medians of `--repeats` runs and ratios. Samples are token-only (txt, json, tokens.npy,
codes.npy) with 96 token ids and 256 codes, as the blog's; reading is in random order, one process,
in batches of 64 as int32 tensors. litdata is measured where it is installed (it needs torch).
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.contracts import SHARD_MEMBERS, Split
from pipeline.core.storage import sha256_file
from pipeline.webdata.index import CodecRef, ShardEntry, ShardIndex, TokenizerRef, write_index
from pipeline.webdata.npy import npy_header
from pipeline.webdata.reader import ShardReader
from pipeline.webdata.tar import open_shard, table_path

TEXT_SEQ_LEN, NUM_CODES = 96, 256
SAMPLES_PER_SHARD = 5000
Rate = tuple[float, float]
Row = tuple[str, str, dict[str, Any], np.ndarray, np.ndarray]


def make_rows(samples: int) -> list[Row]:
    """Samples as the blog's: a caption, a record with its URL and hashes, ids, codes."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 2048, (samples, TEXT_SEQ_LEN)).astype("<u2")
    codes = rng.integers(0, 16384, (samples, NUM_CODES)).astype("<u2")
    rows = []
    for n in range(samples):
        key = f"dalleblog_solid_colors_{n:08d}"
        record = {
            "caption_id": f"{n:016x}",
            "section": "solid_colors",
            "rank": n % 32,
            "url": f"https://cdn.example.com/dall-e/v2/samples/solid_colors/{n:032x}_{n % 32}.png",
            "bytes_sha256": f"{n:064x}",
            "pixel_sha256": f"{n:064x}",
            "width": 256,
            "height": 256,
            "masked_rows": 0,
        }
        caption = f"a solid {n % 97} sphere on a table. a solid {n % 89} sphere sitting on a table."
        rows.append((key, caption, record, tokens[n], codes[n]))
    return rows


def write_ours(rows: list[Row], folder: Path) -> None:
    """Shards with tables and index by our writer."""
    heads = npy_header("<u2", TEXT_SEQ_LEN), npy_header("<u2", NUM_CODES)
    entries = []
    for shard, begin in enumerate(range(0, len(rows), SAMPLES_PER_SHARD)):
        path = folder / "train" / f"{shard:06d}.tar"
        with open_shard(path, len(SHARD_MEMBERS)) as writer:
            for key, caption, record, tokens, codes in rows[begin : begin + SAMPLES_PER_SHARD]:
                contents = (
                    caption.encode(),
                    json.dumps(record, separators=(",", ":")).encode(),
                    heads[0] + tokens.tobytes(),
                    heads[1] + codes.tobytes(),
                )
                writer.add(key, list(zip(SHARD_MEMBERS, contents, strict=True)))
        entries.append(describe(folder, path, writer.samples, writer.sha256))
    write_index(folder, make_index(tuple(entries)))


def describe(folder: Path, path: Path, samples: int, sha256: str) -> ShardEntry:
    """The index entry of a finished shard."""
    table = table_path(path)
    return ShardEntry(
        url=path.relative_to(folder).as_posix(),
        nsamples=samples,
        filesize=path.stat().st_size,
        sha256=sha256,
        table=table.relative_to(folder).as_posix(),
        table_bytes=table.stat().st_size,
        table_sha256=sha256_file(table),
        recipe="",
    )


def make_index(entries: tuple[ShardEntry, ...]) -> ShardIndex:
    """An index over the benchmark's shards."""
    shards: dict[Split, tuple[ShardEntry, ...]] = {"train": entries, "val": ()}
    return ShardIndex(
        name="bench",
        text_seq_len=TEXT_SEQ_LEN,
        num_codes=NUM_CODES,
        codebook_size=16384,
        vocab_size=2048,
        grid=(16, 16),
        codec=CodecRef(name="bench", fingerprint="", image_size=256),
        tokenizer=TokenizerRef(fingerprint="", file=""),
        members=SHARD_MEMBERS,
        tokens_dtype="<u2",
        codes_dtype="<u2",
        lineage="",
        shards=shards,
    )


def write_theirs(rows: list[Row], folder: Path, **options: Any) -> None:
    """The same samples by `webdataset.ShardWriter`."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = str(folder / "%06d.tar")
    with webdataset.ShardWriter(
        pattern, maxcount=SAMPLES_PER_SHARD, verbose=0, **options
    ) as writer:
        for key, caption, record, tokens, codes in rows:
            writer.write(
                {
                    "__key__": key,
                    "txt": caption,
                    "json": record,
                    "tokens.npy": tokens,
                    "codes.npy": codes,
                }
            )


def read_ours(folder: Path) -> Iterator[Any]:
    """Batches in random order by our reader, as torch tensors."""
    reader = ShardReader(folder, "train", check_hashes=False)
    for batch in reader.batches(batch_size=64, seed=0, epoch=0):
        yield torch.from_numpy(batch.tokens_BT), torch.from_numpy(batch.codes_BN)


def read_theirs(folder: Path) -> Iterator[Any]:
    """Batches by `webdataset` with its shuffle buffer and a DataLoader in the same process."""
    urls = sorted(str(path) for path in (folder / "train").glob("*.tar"))
    dataset = (
        webdataset.WebDataset(urls, shardshuffle=len(urls))
        .shuffle(1000)
        .to_tuple("tokens.npy", "codes.npy")
        .map_tuple(load_npy, load_npy)
        .batched(64)
    )
    yield from torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=0)


def write_litdata(rows: list[Row], folder: Path) -> None:
    """Ids and codes of the same samples by litdata's own writer, in chunks of as many samples."""
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir(parents=True, exist_ok=True)
    writer = BinaryWriter(str(folder), chunk_size=SAMPLES_PER_SHARD)
    for number, (_, _, _, tokens, codes) in enumerate(rows):
        writer[number] = {"tokens": tokens, "codes": codes}
    writer.done()
    writer.merge()


def read_litdata(folder: Path) -> Iterator[Any]:
    """Batches in random order by litdata, through its own loader in this process."""
    import litdata

    dataset = litdata.StreamingDataset(str(folder), shuffle=True)
    for batch in litdata.StreamingDataLoader(dataset, batch_size=64, num_workers=0):
        yield batch["tokens"].to(torch.int32), batch["codes"].to(torch.int32)


def read_litdata_bare(folder: Path) -> Iterator[Any]:
    """Its samples one by one, neither stacked nor made tensors: the least that it can do."""
    import litdata

    yield from litdata.StreamingDataset(str(folder), shuffle=True)


def load_npy(data: bytes) -> torch.Tensor:
    """An npy member as int32."""
    return torch.from_numpy(np.load(io.BytesIO(data)).astype(np.int32))


def drain(batches: Iterator[Any]) -> None:
    """Read everything."""
    for _ in batches:
        pass


def measure(work: Callable[[int], None], samples: int, repeats: int) -> Rate:
    """Median samples a second, by the clock and by CPU time; `work` is told the run's number."""
    rates = []
    for number in range(repeats):
        began, cpu_began = time.perf_counter(), time.process_time()
        work(number)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        rates.append((samples / seconds, samples / cpu))
    clocks, cpus = zip(*rates, strict=True)
    return statistics.median(clocks), statistics.median(cpus)


def show(title: str, rates: dict[str, Rate], sizes: dict[str, float] | None = None) -> None:
    """Print one table; ratios are ours to theirs, by CPU time: other work disturbs it less."""
    print(f"\n{title:44s}{'samples/s':>12s}{'a core':>12s}{'ratio':>9s}")
    first = next(iter(rates.values()))[1]
    for name, (clock, cpu) in rates.items():
        size = f"{sizes[name]:10,.0f} B/sample" if sizes else ""
        print(f"  {name:42s}{clock:12,.0f}{cpu:12,.0f}{first / cpu:8.1f}×{size}")


def size_of(folder: Path, samples: int) -> float:
    """Bytes of the tars a sample."""
    return sum(path.stat().st_size for path in folder.rglob("*.tar")) / samples


def main() -> None:
    """Write and read, ours and theirs, and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: /tmp)")
    options = parser.parse_args()
    rows = make_rows(options.samples)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        root = Path(name)
        writers: dict[str, Callable[[int], None]] = {
            "ours": lambda n: write_ours(rows, root / f"ours{n}"),
            "webdataset.ShardWriter": lambda n: write_theirs(rows, root / f"theirs{n}"),
            "webdataset.ShardWriter, mtime=0": lambda n: write_theirs(
                rows, root / f"plain{n}", mtime=0
            ),
        }
        rates = {k: measure(work, options.samples, options.repeats) for k, work in writers.items()}
        folders = dict(zip(writers, ("ours0", "theirs0", "plain0"), strict=True))
        sizes = {k: size_of(root / folder, options.samples) for k, folder in folders.items()}
        show("Writing", rates, sizes)
        readers: dict[str, Callable[[int], None]] = {
            "ours, random order": lambda _: drain(read_ours(root / "ours0")),
            "webdataset + DataLoader, shuffle buffer": lambda _: drain(read_theirs(root / "ours0")),
        }
        if importlib.util.find_spec("litdata"):
            write_litdata(rows, root / "litdata")
            readers |= {
                "litdata + StreamingDataLoader": lambda _: drain(read_litdata(root / "litdata")),
                "litdata, bare samples": lambda _: drain(read_litdata_bare(root / "litdata")),
            }
        show(
            "Reading", {k: measure(w, options.samples, options.repeats) for k, w in readers.items()}
        )


if __name__ == "__main__":
    main()
