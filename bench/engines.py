"""One and two workers, in processes of this machine and on Ray: the inspection of dedupe, and encode.

    python bench/engines.py [--images 3000] [--encoded 600] [--repeats 3]

The seconds of Ray include its start on this machine, which a running cluster saves. Needs the extra ray.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from dedupe_images import make_photos

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
    """A workspace of `count` images in a folder beside it, each another file."""
    from pipeline.core.workspace import Workspace

    photos = root / "photos"
    photos.mkdir()
    made = itertools.cycle(make_photos(min(count, 200)))
    for number, data in enumerate(itertools.islice(made, count)):
        (photos / f"{number}.png").write_bytes(data + b"%d" % number)
        (photos / f"{number}.txt").write_text(f"caption {number}\n")
    Workspace(root / "data").open(source="folder")
    scrape(FolderConfig(source="folder", workspace=root / "data", inputs=(str(photos),)))
    return root / "data"


def run_dedupe(root: Path, engine: str, workers: int) -> None:
    shutil.rmtree(root / "dedupe", ignore_errors=True)
    dedupe(
        DedupeConfig(workspace=root, workers=workers, engine=engine, near_duplicates="off")  # type: ignore[arg-type]
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


def measure(run: Run, root: Path, repeats: int) -> Iterator[tuple[str, int, float]]:
    """Medians of the seconds, the engines in turn."""
    cases = [(engine, workers) for workers in (1, 2) for engine in ("local", "ray")]
    seconds: dict[tuple[str, int], list[float]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            started = time.perf_counter()
            run(root, *case)
            seconds[case].append(time.perf_counter() - started)
    for case in cases:
        yield *case, statistics.median(seconds[case])


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
            print(f"| {name}, {count:,} images | workers | seconds | images/s |")
            for engine, workers, seconds in measure(run, root, given.repeats):
                print(f"| {engine} | {workers} | {seconds:.1f} | {count / seconds:,.0f} |")


if __name__ == "__main__":
    main()
