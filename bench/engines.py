"""One and two workers, in processes of this machine and on Ray: the inspection of dedupe, and encode.

    python bench/engines.py [--images 3000] [--encoded 600] [--repeats 3]

The seconds of Ray include its start on this machine, which a running cluster saves. Needs the extra ray.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dedupe_images import make_photos
from meter import ResourceMeter

from pipeline.dedupe.config import DedupeConfig
from pipeline.dedupe.run import run as dedupe
from pipeline.encode.config import EncodeConfig
from pipeline.encode.run import run as encode
from pipeline.models.codecs.load import save_codec
from pipeline.models.codecs.vq import VQCodec, VQConfig
from scrapers.scrape import scrape
from scrapers.sources.folder import FolderConfig

Run = Callable[[Path, str, int], Any]


def make_workspace(root: Path, count: int) -> Path:
    """A workspace of `count` different images in a folder beside it."""
    from pipeline.core.workspace import Workspace

    photos = root / "photos"
    photos.mkdir()
    for number, data in enumerate(make_photos(count)):
        (photos / f"{number}.png").write_bytes(data)
        (photos / f"{number}.txt").write_text(f"caption {number}\n")
    Workspace(root / "data").open(source="folder")
    scrape(FolderConfig(source="folder", workspace=root / "data", inputs=(str(photos),)))
    return root / "data"


def run_dedupe(root: Path, engine: str, workers: int) -> None:
    shutil.rmtree(root / "dedupe", ignore_errors=True)
    dedupe(
        DedupeConfig(
            workspace=root,
            workers=workers,
            engine=engine,  # type: ignore[arg-type]
            near_duplicates="off",
            val_fraction=0.1,
        )
    )


def run_encode(root: Path, engine: str, workers: int) -> None:
    shutil.rmtree(root / "codes", ignore_errors=True)
    encode(
        EncodeConfig(
            workspace=root,
            codec=str(root.parent / "codec"),
            devices=workers,
            workers=1,
            engine=engine,  # type: ignore[arg-type]
        )
    )


def measure(run: Run, root: Path, repeats: int) -> Iterator[tuple[str, int, float, float]]:
    """Medians of the seconds, of the clock and of all CPUs, the engines in turn."""
    cases = [(engine, workers) for workers in (1, 2) for engine in ("local", "ray")]
    meters: dict[tuple[str, int], list[ResourceMeter]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            with ResourceMeter() as meter:
                run(root, *case)
            meters[case].append(meter)
    for case, found in meters.items():
        clock_s, cpu_s = (m.wall_s for m in found), (m.cpu_s for m in found)
        yield *case, statistics.median(clock_s), statistics.median(cpu_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--encoded", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for name, run, count in (
        ("dedupe", run_dedupe, given.images),
        ("encode", run_encode, given.encoded),
    ):
        with tempfile.TemporaryDirectory() as folder:
            root = make_workspace(Path(folder), count)
            if name == "encode":
                save_codec(VQCodec(VQConfig(image_size=128, channels=32)), root.parent / "codec")
                run_dedupe(root, "local", 2)
            print(f"| {name}, {count:,} images | workers | seconds | images/s | CPU seconds |")
            for engine, workers, seconds, cpu_s in measure(run, root, given.repeats):
                rate = f"{seconds:.1f} | {count / seconds:,.0f} | {cpu_s:.1f}"
                print(f"| {engine} | {workers} | {rate} |", flush=True)


if __name__ == "__main__":
    main()
