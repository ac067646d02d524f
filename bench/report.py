"""What `pipeline report` costs for a workspace of 880,000 URLs: seconds, memory, and the size of the page.

    python bench/report.py [--captions 27500] [--folder DIR]

Writes a ledger of the real schema, its images (small JPEGs, each another file), their inspections and codes
of a codec with random weights, lets `pipeline run` make the tables and shards, adds a training log and
generated images, and times the report in a process of its own. Of the URLs 1 in 100 is missing; of the images
1 in 50 is a copy and 1 in 10 is near another. Needs 6 GB of disk.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from rerun import RANKS, all_captions, write_codes, write_raw_manifest

from pipeline.core.contracts import FileEntry
from pipeline.core.storage import make_manifest, write_bytes, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe.inspection import Inspection
from pipeline.dedupe.tables import write_inspections
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.segments import SegmentState

KINDS, SIDE = 256, 128
A_SEGMENT = 100_000  # images
MISSING = 100
PROGRAM = [sys.executable, "-m", "pipeline"]


def main() -> None:
    """Make the workspace if it is not there, then time the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, default=27_500, help="32 URLs each.")
    parser.add_argument("--folder", type=Path, help="Keeps the workspace (default: a new one).")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = (options.folder or Path(scratch)) / "large"
        if not root.exists():
            make(Workspace(root), options.captions)
        measure(root)


def measure(root: Path) -> None:
    """Print the time, the memory and the size."""
    page = root / "report.html"
    page.unlink(missing_ok=True)
    started = time.monotonic()
    process = subprocess.Popen([*PROGRAM, "report", "--workspace", root, "--quiet"])
    _, status, used = os.wait4(
        process.pid, 0
    )  # not RUSAGE_CHILDREN, which has the other stages too
    wall_s = time.monotonic() - started
    if status:
        sys.exit("The report failed.")
    images = len(re.findall("<img ", page.read_text()))
    print("| clock | CPU | peak memory | page | images on it |\n|---|---|---|---|---|")
    print(
        f"| {wall_s:.1f} s | {used.ru_utime + used.ru_stime:.1f} s | {used.ru_maxrss / 1e6:.2f} GB "
        f"| {page.stat().st_size / 1e6:.1f} MB | {images} |"
    )


def make(workspace: Workspace, captions: int) -> None:
    """The workspace after `shard`, with a run and generated images."""
    workspace.open(source="dalleblog")
    workspace.segments.mkdir(parents=True)
    digests = write_images(workspace, captions)
    write_raw_manifest(workspace, workspace.segments / "00000.tar")
    pixels = raster_hashes(len(digests))
    workspace.dedupe.mkdir()
    write_inspections(workspace.dedupe / "inspections.parquet", inspections(digests, pixels))
    write_codes(workspace, sorted(set(pixels)))
    config = workspace.root.parent / "large.toml"
    config.write_text("[scrape]\nno_page = true\n\n[shard]\ntext_seq_len = 64\n")
    place = ["--workspace", str(workspace.root), "--config", str(config), "--quiet"]
    subprocess.run([*PROGRAM, "run", "--until", "shard", *place], check=True)
    write_run(workspace)
    write_generated(workspace)


def photo(kind: int) -> bytes:
    """A JPEG of smooth colours."""
    small = np.random.default_rng(kind).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=60)
    return file.getvalue()


def write_images(workspace: Workspace, wanted: int) -> list[bytes]:
    """Ledger and segments; returns the sha256 of each file. A number after a JPEG's end makes it unique."""
    kinds = [photo(kind) for kind in range(KINDS)]
    ledger, digests = Ledger(workspace.ledger, "dalleblog"), []
    captions = itertools.islice(all_captions(), wanted)
    segment, offset = 0, 0
    file = (workspace.segments / "00000.tar").open("wb")
    for start in itertools.count(1, 500):
        forms, rows = [], []
        for number, (section, form) in enumerate(itertools.islice(captions, 500), start):
            prefix, suffix, key, _ = address_of(form, section)
            forms.append(
                FormRow(number, key, number, section, form.caption, False, RANKS, prefix, suffix)
            )
            for rank in range(RANKS):
                n = (number - 1) * RANKS + rank
                data = kinds[n % KINDS] + n.to_bytes(8, "big")
                digest, at = hashlib.sha256(data).digest(), 1_700_000_000 + n // 300
                digests.append(digest)
                if n % MISSING == 0:
                    rows.append(url_row(number, rank, "missing", at))
                    continue
                rows.append(url_row(number, rank, "done", at, digest, len(data), segment, offset))
                offset += file.write(data)
        if not forms:
            break
        ledger.commit(forms=forms, rows=rows)
        if len(digests) // A_SEGMENT > segment:
            file.close()
            segment, offset = len(digests) // A_SEGMENT, 0
            file = (workspace.segments / f"{segment:05d}.tar").open("wb")
    file.close()
    sizes = [(path, path.stat().st_size) for path in sorted(workspace.segments.iterdir())]
    ledger.commit(segments=[SegmentState(n, size, "0" * 64) for n, (_, size) in enumerate(sizes)])
    ledger.close()
    return digests


def url_row(number: int, rank: int, state: str, at: int, *stored: object) -> UrlRow:
    """A row of the ledger, of bytes that are stored or of a URL that is missing."""
    digest, size, segment, offset = stored or (None, None, None, None)
    status, reason = (200, None) if state == "done" else (404, "http_404")
    return UrlRow(
        number, rank, STATE_NUMBER[state], status, reason, 1, None, None, None, digest, size,
        segment, offset, 1, at,
    )  # fmt: skip


def raster_hashes(images: int) -> list[str]:
    """The hash of every image's pixels: 1 in 50 has those of its neighbour."""
    own = [n - 1 if n % 50 == 7 else n for n in range(images)]
    return [hashlib.sha256(b"pixels %d" % n).hexdigest() for n in own]


def inspections(digests: list[bytes], pixels: list[str]) -> Iterator[Inspection]:
    """What an inspection would say of the images, sorted by their bytes."""
    rng = np.random.default_rng(0)
    phashes = rng.integers(0, 2**63, len(digests), dtype=np.uint64)
    near = np.flatnonzero(np.arange(len(digests)) % 10 == 3)
    phashes[near] = phashes[near - 1] ^ np.uint64(0b101)
    rows = []
    for digest, raster, phash in zip(digests, pixels, phashes.tolist(), strict=True):
        values = {
            "sha256": digest.hex(), "status": "ok", "format": "jpeg", "width": SIDE,
            "height": SIDE, "mode": "RGB", "has_alpha": 0, "pixel_sha256": raster, "phash": phash,
            "mean_red": phash % 251 * 1.0, "mean_green": phash % 241 * 1.0,
            "mean_blue": phash % 239 * 1.0, "is_blank": 0, "looks_cut": 0,
        }  # fmt: skip
        rows.append(Inspection(**{**dict.fromkeys(Inspection._fields), **values}))
    yield from sorted(rows, key=lambda row: row.sha256)


def write_run(workspace: Workspace) -> None:
    """A run with 20,000 steps in its log."""
    lines = []
    for step in range(10, 20_001, 10):
        lines.append({"step": step, "loss": 9 / (1 + step / 500), "lr": 1e-4})
        if step % 500 == 0:
            lines.append({"step": step, "val_loss": 2 + abs(step - 9000) / 9000})
    folder = workspace.run("dalle")
    write_bytes(folder / "log.jsonl", "".join(json.dumps(x) + "\n" for x in lines).encode())
    declare(folder, "run")


def write_generated(workspace: Workspace) -> None:
    """Eight generated images with their records."""
    folder, records = workspace.generated("default"), []
    for number in range(8):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Image.open(io.BytesIO(photo(number))).save(folder / f"{number}.png")
        records.append({"prompt": f"a numbered picture {number}", "file": f"{number}.png"})
    write_bytes(folder / "records.jsonl", "".join(json.dumps(r) + "\n" for r in records).encode())
    declare(folder, "generated")


def declare(folder: Path, contract: str, files: tuple[FileEntry, ...] = ()) -> None:
    """Write a manifest."""
    write_manifest(folder, make_manifest(contract, config={}, inputs={}, counts={}, files=files))


if __name__ == "__main__":
    main()
