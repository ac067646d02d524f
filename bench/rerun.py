"""What a rerun costs: of an unchanged workspace of 880,000 URLs, and after 1 % new data on the replica.

    python bench/rerun.py [large] [grown] [--folder DIR]

`large` writes a ledger of the real schema, its inspections and codes (no image is fetched or encoded), lets
`pipeline run` make the rest, and times it again, unchanged. `grown` crawls the replica, prepares all of it,
lets the page show 1 % more captions, and compares the processor time of both runs, as `runs.jsonl` has it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from PIL import Image

from pipeline.core.config import resolved
from pipeline.core.contracts import FileEntry
from pipeline.core.stages import all_stages
from pipeline.core.storage import file_entry, make_manifest, sha256_bytes, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe.inspection import Inspection
from pipeline.dedupe.tables import write_inspections
from pipeline.encode.parts import CodesFolder
from pipeline.encode.run import recipe_digest
from pipeline.models.codecs.load import load_codec, save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from scrapers.rawstore.keys import address_of
from scrapers.rawstore.ledger import Ledger
from scrapers.rawstore.ledger_rows import FormRow, UrlRow
from scrapers.rawstore.ledger_schema import STATE_NUMBER
from scrapers.rawstore.segments import SegmentState
from scrapers.rawstore.summary import completeness, content_digest, section_table
from scrapers.source import CaptionForm
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.config import DalleBlogConfig

RANKS = 32
SECTION = "countries"  # its keys can't be computed: what the page shows is what there is
SHOWN, MORE = 200, 202
ONCE = ("train-tokenizer", "train-codec")


def main() -> None:
    """Run the pieces that were named, all without names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pieces", nargs="*", choices=["large", "grown", []])
    parser.add_argument("--folder", type=Path, help="Keeps the workspaces (default: a new one).")
    parser.add_argument("--captions", type=int, default=27_500, help="Of `large`, 32 URLs each.")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for name in options.pieces or ("large", "grown"):
            if name == "large":
                bench_large(folder, options.captions)
            else:
                bench_grown(folder)


def pipeline(*arguments: str | Path) -> tuple[float, float]:
    """Run the command; seconds of the clock and of the processor."""
    before, started = os.times(), time.monotonic()
    line = [sys.executable, "-m", "pipeline", *map(str, arguments), "--quiet"]
    subprocess.run(line, check=True, cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    after = os.times()
    cpu_s = sum(after[2:4]) - sum(before[2:4])
    return time.monotonic() - started, cpu_s


# --- 880,000 URLs --------------------------------------------------------------------------------


def bench_large(folder: Path, captions: int) -> None:
    """Time a run, a dry run and the status of a large workspace in which nothing has changed."""
    workspace = Workspace(folder / "large")
    config = folder / "large.toml"
    config.write_text("[scrape]\nno_page = true\n\n[shard]\ntext_seq_len = 64\n")
    place = ("--workspace", workspace.root, "--config", config)
    if not workspace.root.exists():
        write_large(workspace, captions)
        report("first run", place, first=True)
    for name, *arguments in (
        ("`pipeline run`, unchanged", "run", "--until", "shard"),
        ("`pipeline report`, unchanged", "report"),
        ("`pipeline run --dry-run`", "run", "--until", "shard", "--dry-run"),
        ("`pipeline status`", "status"),
    ):
        wall_s, cpu_s = pipeline(*arguments, *place)
        print(f"| {name} | {wall_s:.2f} s | {cpu_s:.2f} s |", flush=True)


def report(name: str, place: tuple[str | Path, ...], *, first: bool) -> None:
    wall_s, cpu_s = pipeline("run", "--until", "shard", *place)
    more = pipeline("report", *place) if first else (0.0, 0.0)
    print(f"| {name} | {wall_s + more[0]:.1f} s | {cpu_s + more[1]:.1f} s |", flush=True)


def write_large(workspace: Workspace, wanted: int) -> None:
    """A workspace as a crawl of all captions, an inspection and an encoding would leave it."""
    workspace.open(source="dalleblog")
    workspace.segments.mkdir(parents=True)
    picture = workspace.segments / "00000.tar"
    Image.new("RGB", (64, 64), (200, 120, 40)).save(picture, "PNG")
    captions = list(itertools.islice(all_captions(), wanted))
    write_ledger(workspace, captions, picture)
    write_raw_manifest(workspace, picture)
    hashes = [
        f"{hashlib.sha256(b'pixels %d' % n).hexdigest()}" for n in range(len(captions) * RANKS)
    ]
    workspace.dedupe.mkdir()
    write_inspections(workspace.dedupe / "inspections.parquet", inspections(hashes))
    write_codes(workspace, hashes)


def all_captions() -> Iterator[tuple[str, CaptionForm]]:
    """Captions of the catalogue with their addresses, then numbered ones, as many as are wanted."""
    for section in load_catalogue().sections:
        if section.key == "base64":
            for forms in section.captions():
                key = hashlib.sha256(forms[0].encode()).hexdigest()
                url = f"https://cdn.example/samples/{section.name}/{key}_{{rank}}.png"
                yield section.name, CaptionForm(caption=forms[0], url_template=url)
    for number in itertools.count():
        url = f"https://cdn.example/samples/more/{number}_{{rank}}.png"
        yield "more", CaptionForm(caption=f"a numbered picture {number}", url_template=url)


def write_ledger(
    workspace: Workspace, captions: list[tuple[str, CaptionForm]], picture: Path
) -> None:
    ledger = Ledger(workspace.ledger, "dalleblog")
    size, done = picture.stat().st_size, STATE_NUMBER["done"]
    for start in range(0, len(captions), 1000):
        forms, rows = [], []
        for number, (section, form) in enumerate(captions[start : start + 1000], start + 1):
            prefix, suffix, key, _ = address_of(form, section)
            forms.append(
                FormRow(number, key, number, section, form.caption, False, RANKS, prefix, suffix)
            )
            for rank in range(RANKS):
                digest = hashlib.sha256(b"%d %d" % (number, rank)).digest()
                rows.append(
                    UrlRow(number, rank, done, 200, None, 1, f'"{rank}"', None, None, digest,
                           size, 0, 0, 1, 1_700_000_000)
                )  # fmt: skip
        ledger.commit(forms=forms, rows=rows)
    ledger.commit(segments=[SegmentState(0, size, sha256_bytes(picture.read_bytes()))])
    ledger.close()


def write_raw_manifest(workspace: Workspace, picture: Path) -> None:
    ledger = Ledger(workspace.ledger)
    table, counts = section_table(ledger), dict(ledger.count_states())
    config = DalleBlogConfig(workspace=workspace.root, no_page=True)
    entry = FileEntry(
        path="segments/00000.tar",
        bytes=picture.stat().st_size,
        sha256=sha256_bytes(picture.read_bytes()),
    )
    details = {
        "content": content_digest(ledger),
        "sections": table,
        "completeness": completeness(table),
    }
    manifest = make_manifest(
        "raw",
        config=resolved(config),
        inputs={},
        counts={"urls": sum(counts.values()), **counts},
        files=(entry,),
        details=details,
    )
    ledger.close()
    write_manifest(workspace.raw, manifest)


def inspections(hashes: list[str]) -> Iterator[Inspection]:
    """What an inspection of images that are all different would say, sorted by their bytes."""
    rng = np.random.default_rng(0)
    phashes = rng.integers(0, 2**64, len(hashes), dtype=np.uint64).tolist()
    rows = []
    for n, (pixels, phash) in enumerate(zip(hashes, phashes, strict=True)):
        number, rank = divmod(n, RANKS)
        digest = hashlib.sha256(b"%d %d" % (number + 1, rank)).hexdigest()
        values = {
            "sha256": digest, "status": "ok", "format": "png", "width": 256, "height": 256,
            "mode": "RGB", "has_alpha": 0, "pixel_sha256": pixels, "phash": phash,
            "mean_red": 1.0, "mean_green": 1.0, "mean_blue": 1.0, "is_blank": 0,
            "looks_cut": 0,
        }  # fmt: skip
        rows.append(Inspection(**{**dict.fromkeys(Inspection._fields), **values}))
    yield from sorted(rows, key=lambda row: row.sha256)


def write_codes(workspace: Workspace, hashes: list[str]) -> None:
    """A codec with random weights, and codes of every image, without their manifest."""
    config = all_stages()["train-codec"].config(workspace=workspace.root)
    torch.manual_seed(0)
    codec = VQCodec(VQConfig(image_size=128, num_tokens=1024, code_dim=16, channels=16))
    folder = workspace.codec(config.name)
    save_codec(codec, folder)
    files = tuple(file_entry(path, folder) for path in sorted(folder.iterdir()))
    write_manifest(
        folder,
        make_manifest("codec", config=resolved(config), inputs={}, counts={}, files=files),
    )
    recipe = recipe_digest(load_codec(folder).fingerprint, "fp32")
    parts = CodesFolder(workspace.codes(config.name, recipe))
    parts.path.mkdir(parents=True)
    rng = np.random.default_rng(1)
    for start in range(0, len(hashes), 10_000):
        some = sorted(hashes[start : start + 10_000])
        codes_BN = rng.integers(0, 1024, (len(some), codec.num_codes), dtype=np.uint16)
        parts.add_part([(pixels, "center") for pixels in some], codes_BN, [])


# --- 1 % new -------------------------------------------------------------------------------------


def bench_grown(folder: Path) -> None:
    """Compare the processor time of a first run and of one that finds 1 % more captions."""
    workspace = folder / "grown"
    rows = []
    for shown, how in ((SHOWN, ()), (MORE, ("--update",)), (MORE, ("--update",))):
        with replica(shown) as address:
            config = folder / "grown.toml"
            config.write_text(grown_options(address))
            for command in (("run", *how, "--until", "shard"), ("report",)):
                pipeline(*command, "--workspace", workspace, "--config", config)
        lines = (workspace / "runs.jsonl").read_text().splitlines()[-2:]
        rows.append([json.loads(line) for line in lines])
    first, grown, unchanged = ([r for line in lines for r in line["stages"]] for lines in rows)
    print_stages(first, grown, unchanged)
    whole = [sum(line["cpu_seconds"] for line in lines) for lines in rows]
    once = [
        sum(cpu_seconds(e) for e in stages if e["stage"] in ONCE)
        for stages in (first, grown, unchanged)
    ]
    print_shares("all of it", whole)
    print_shares("without what is trained once", [a - b for a, b in zip(whole, once, strict=True)])


def print_shares(name: str, runs_s: list[float]) -> None:
    first, grown, unchanged = runs_s
    print(f"| {name} | {first:.1f} s | {grown:.1f} s ({grown / first:.1%}) | {unchanged:.1f} s |")


def cpu_seconds(entry: dict[str, object]) -> float:
    """Of a stage in a run's record; 0 for one that was passed over."""
    return float(str(entry.get("cpu_seconds", 0)))


def print_stages(*runs: list[dict[str, object]]) -> None:
    for entries in zip(*runs, strict=True):
        cells = " | ".join(f"{cpu_seconds(entry):.1f} s" for entry in entries)
        print(f"| {entries[0]['stage']} | {cells} |", flush=True)


def grown_options(address: str) -> str:
    return (
        f'[scrape]\npage_url = "http://dalleblog.localhost/blog/dall-e/"\nconnect_to = "{address}"\n'
        f'sections = ["{SECTION}"]\n\n[dedupe]\nval_fraction = 0.02\n\n[shard]\ntext_seq_len = 48\n'
    )


@contextlib.contextmanager
def replica(shown: int) -> Iterator[str]:
    """A replica whose page shows so many captions, in a process of its own; yields its host:port."""
    code = (
        "import time; from pipeline.demo.replica.server import Replica\n"
        "from pipeline.demo.replica.config import ReplicaConfig\n"
        f"with Replica(ReplicaConfig(sections=('{SECTION}',), shown_captions={shown})) as r:\n"
        "    print(r.url, flush=True); time.sleep(1e6)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip().removeprefix("http://").strip("/")
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
