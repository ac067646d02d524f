"""`pipeline serve`: pages of a large workspace under 20 clients; drawing against dalle-service's back end.

    python bench/serve.py pages [--rows 1000000] [--clients 20] [--folder DIR]
    python bench/serve.py dalle [--depth 4] [--dim 128]

`pages` writes the tables of dedupe for a million kept images (31,250 captions, 32 each), whose bytes are
those of 600 different PNGs of 256 x 256 pixels, starts the server in a process of its own, and asks it from
here: each client sends its next request as soon as it has the last answer. A page is complete when all its 60
thumbnails are here, those inside it and those that it links. "Cold" means that none of them was made before.
"CPU" is the server's processor time per page.

`dalle` lets both servers draw from the same random weights on the CPU: `serve` with 8 clients of 4 images
each, and `serve_flask.py`, which calls dalle-pytorch's `generate_images` as dalle-service's back end does
(batches of 4, no cache, threshold 0.9), under Flask's own server.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import aiohttp
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline.core.contracts import KEPT, REJECTED
from pipeline.core.storage import arrow_schema, make_manifest, write_manifest
from pipeline.core.workspace import Workspace
from pipeline.dedupe.tables import TableWriter

IMAGES, SIDE, PER_CAPTION = 600, 256, 32
AT_ONCE = 65_536
SECTIONS = ("emojis", "storefronts", "relative_positions", "cubes")
NOUNS = (
    "avocado",
    "penguin",
    "armchair",
    "snail",
    "harp",
    "lamp",
    "teapot",
    "cube",
    "flag",
    "clock",
)
PAGE = 60
PROCESSES: list[int] = []  # of the servers


def main() -> None:
    """Print the table of one part."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(required=True, dest="part")
    pages = parts.add_parser("pages")
    pages.add_argument("--rows", type=int, default=1_000_000)
    pages.add_argument("--clients", type=int, default=20)
    pages.add_argument("--requests", type=int, default=20, help="by each client, of each kind")
    pages.add_argument("--folder", type=Path, help="keeps the workspace (default: a new one)")
    dalle = parts.add_parser("dalle")
    dalle.add_argument("--dim", type=int, default=128)
    dalle.add_argument("--depth", type=int, default=4)
    dalle.add_argument("--clients", type=int, default=8)
    dalle.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}")
    with tempfile.TemporaryDirectory() as scratch:
        if options.part == "pages":
            measure_pages(options, Path(scratch))
        else:
            measure_drawing(options, Path(scratch))


@contextmanager
def serving(program: Sequence[str], read_url: Callable[[str], str | None]) -> Iterator[str]:
    """A server in a process of its own; yields its URL, found by `read_url` in what it prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            PROCESSES.append(process.pid)
            yield next(url for line in process.stdout if (url := read_url(line)))
        finally:
            process.terminate()


@contextmanager
def serving_workspace(root: Path, *options: str) -> Iterator[str]:
    """`pipeline serve` over a workspace."""
    program = (sys.executable, "-m", "pipeline", "serve", "--workspace", str(root))
    more = ("--port", "0", "--device", "cpu", "--json", *options)
    with serving((*program, *more), lambda line: json.loads(line).get("address")) as url:
        yield url


# --- Pages ----------------------------------------------------------------------------------------


def measure_pages(options: argparse.Namespace, scratch: Path) -> None:
    """Make the workspace if it is not there, then time pages."""
    root = (options.folder or scratch) / f"rows-{options.rows}"
    if not root.exists():
        began_s = time.monotonic()
        make_workspace(Workspace(root), options.rows)
        print(f"made {options.rows:,} rows in {time.monotonic() - began_s:.0f} s")
    with serving_workspace(root, "--index", str(scratch / "index")) as url:
        asyncio.run(time_pages(url, options))


async def time_pages(url: str, options: argparse.Namespace) -> None:
    """Print the table."""
    rng = random.Random(0)
    last = options.rows - PAGE

    def page() -> str:
        return f"browse?start={rng.randrange(last)}"

    def filtered() -> str:
        sort = rng.choice(("key", "bytes", "caption"))
        return f"browse?section={rng.choice(SECTIONS)}&sort={sort}&start={rng.randrange(last // 8)}"

    def search() -> str:
        return f"browse?q={rng.choice(NOUNS)}+{rng.randrange(options.rows // PER_CAPTION)}"

    def broad_search() -> str:
        return f"browse?q={rng.choice(NOUNS)}&start={rng.randrange(last // 20)}"

    async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(limit=0)) as session:
        began_s = time.monotonic()
        await (await session.get("browse", headers=HTML)).read()
        print(f"first page after {time.monotonic() - began_s:.1f} s (reading the tables)")
        while "index is being made" in await text_of(session, "browse"):
            await asyncio.sleep(0.2)
        print(f"search index after {time.monotonic() - began_s:.1f} s")
        print(
            "\n| what | clients | p50 ms | p99 ms | CPU ms | a second |\n|---|---|---|---|---|---|"
        )
        starts = iter(range(0, IMAGES, PAGE))
        cold = await measure(
            session, lambda: f"browse?start={next(starts)}", 1, IMAGES // PAGE, with_missing=True
        )
        show("a page with its 60 thumbnails, cold", 1, cold)
        for clients in (1, options.clients):
            for name, path in (
                ("a page with its 60 thumbnails, any place", page),
                ("filtered by section, sorted", filtered),
                ("search for two words", search),
                ("search for one word, any place", broad_search),
            ):
                times = await measure(session, path, clients, options.requests, with_missing=True)
                show(name, clients, times)


HTML = {"Accept": "text/html"}


async def text_of(session: aiohttp.ClientSession, path: str) -> str:
    """The body of a page."""
    async with session.get(path, headers=HTML) as answer:
        assert answer.status == 200, answer.status
        return await answer.text()


async def fetch_page(session: aiohttp.ClientSession, path: str, *, with_missing: bool) -> None:
    """A page, and the thumbnails that it names instead of containing them."""
    page = await text_of(session, path)
    if with_missing:
        names = [part.split('"')[0] for part in page.split('src="/thumb/')[1:]]
        await asyncio.gather(
            *(_drain(session, f"thumb/{name}".replace("&amp;", "&")) for name in names)
        )


async def _drain(session: aiohttp.ClientSession, path: str) -> None:
    async with session.get(path) as answer:
        assert answer.status == 200, (path, answer.status)
        await answer.read()


async def measure(
    session: aiohttp.ClientSession,
    path: Callable[[], str],
    clients: int,
    requests: int,
    *,
    with_missing: bool,
) -> tuple[list[float], float, float]:
    """The seconds of each request, of all of them, and of the server's processor."""
    times: list[float] = []

    async def client() -> None:
        for _ in range(requests):
            began_s = time.perf_counter()
            await fetch_page(session, path(), with_missing=with_missing)
            times.append(time.perf_counter() - began_s)

    began_s, cpu_s = time.perf_counter(), server_cpu_s()
    await asyncio.gather(*(client() for _ in range(clients)))
    return times, time.perf_counter() - began_s, server_cpu_s() - cpu_s


def server_cpu_s() -> float:
    """Processor time of the server so far."""
    fields = Path(f"/proc/{PROCESSES[-1]}/stat").read_text().rsplit(")")[-1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def show(name: str, clients: int, measured: tuple[list[float], float, float]) -> None:
    """Print a line of the table."""
    times, seconds, cpu_s = measured
    p50, p99 = (1000 * float(np.quantile(times, share)) for share in (0.5, 0.99))
    cpu_ms, rate = 1000 * cpu_s / len(times), len(times) / seconds
    row = f"| {name} | {clients} | {p50:.0f} | {p99:.0f} | {cpu_ms:.1f} | {rate:.1f} |"
    print(row, flush=True)


def make_workspace(workspace: Workspace, rows: int) -> None:
    """The tables of dedupe and one segment."""
    workspace.open(source="dalleblog")
    places = write_images(workspace.segments)
    with (
        TableWriter(workspace.dedupe / "kept", KEPT) as kept,
        TableWriter(workspace.dedupe / "rejected", REJECTED) as rejected,
    ):
        for start in range(0, rows, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, rows))
            columns = kept_columns(numbers, places)
            kept.add(pa.RecordBatch.from_pydict(columns, schema=arrow_schema(KEPT)))
    files = (*kept.entries(workspace.dedupe), *rejected.entries(workspace.dedupe))
    manifest = make_manifest("dedupe", config={}, inputs={}, counts={}, files=files)
    write_manifest(workspace.dedupe, manifest)


def write_images(folder: Path) -> list[dict[str, Any]]:
    """A segment of different PNGs; returns where they lie."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    places = []
    with tarfile.open(folder / "00000.tar", "w") as tar:
        for number in range(IMAGES):
            small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            out = io.BytesIO()
            small.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(out, "PNG", compress_level=1)
            data = out.getvalue()
            info = tarfile.TarInfo(f"image-{number:05d}.png")
            info.size = len(data)
            offset = tar.offset + 512
            tar.addfile(info, io.BytesIO(data))
            digest = hashlib.sha256(data).hexdigest()
            place = {"segment": "00000.tar", "offset": offset, "bytes": len(data)}
            places.append(place | {"bytes_sha256": digest, "pixel_sha256": digest})
    return places


def kept_columns(numbers: range, places: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows of images as columns; key, caption and rank of a row follow from its number."""
    captions = [n // PER_CAPTION for n in numbers]
    sections = [SECTIONS[c % len(SECTIONS)] for c in captions]
    texts = [f"a {NOUNS[c % len(NOUNS)]} in the style of picture {c}" for c in captions]
    urls = zip(sections, numbers, strict=True)
    count = len(numbers)
    columns: dict[str, list[Any]] = {
        "key": [f"image-{n:09d}" for n in numbers],
        "url": [f"http://127.0.0.1/dall-e/v2/samples/{s}/{n}.png" for s, n in urls],
        "source": ["dalleblog"] * count,
        "section": sections,
        "caption_id": [f"{c:016x}" for c in captions],
        "caption": texts,
        "captions": [[text] for text in texts],
        "extra": [None] * count,
        "rank": [n % PER_CAPTION for n in numbers],
        "caption_normalized": texts,
        "format": ["png"] * count,
        "width": [SIDE] * count,
        "height": [SIDE] * count,
        "mode": ["RGB"] * count,
        "has_alpha": [False] * count,
        "phash": list(numbers),
        "is_blank": [False] * count,
        "looks_cut": [False] * count,
        "masked_rows": [0] * count,
        "cluster": [f"image-{n - n % PER_CAPTION:09d}" for n in numbers],
        "split": ["val" if c % 50 == 0 else "train" for c in captions],
    }
    for name in ("segment", "offset", "bytes", "bytes_sha256", "pixel_sha256"):
        columns[name] = [places[n % IMAGES][name] for n in numbers]
    for name in ("mean_red", "mean_green", "mean_blue"):
        columns[name] = [128.0] * count
    return columns


# --- Drawing --------------------------------------------------------------------------------------


def measure_drawing(options: argparse.Namespace, scratch: Path) -> None:
    """Time both servers with the same weights."""
    from serve_flask import write_model

    workspace = Workspace(scratch / "data").open("dalleblog")
    write_model(workspace, dim=options.dim, depth=options.depth)
    print("\n| back end | clients | images | s | images/s |\n|---|---|---|---|---|", flush=True)
    threads = str(options.threads)
    other = Path(__file__).parent / "serve_flask.py"
    flask = (sys.executable, str(other), str(workspace.root), threads)
    rates = []
    with serving_workspace(workspace.root, "--threads", threads) as url:
        rates.append(asyncio.run(draw("pipeline serve", url, options.clients)))
    with serving(flask, lambda line: line.strip() if line.startswith("http") else None) as url:
        rates.append(asyncio.run(draw("dalle-pytorch in Flask", url, 1)))
    print(f"\n{rates[0] / rates[1]:.1f} times as many images a second")


async def draw(name: str, url: str, clients: int) -> float:
    """Images a second of clients that ask for 4 images each, as dalle-service's front end does."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(url, timeout=timeout) as session:

        async def wanted(text: str, count: int) -> int:
            body = {"text": text, "num_images": count, "dalle_name": "dalle"}
            async with session.post("dalle", data=json.dumps(body)) as answer:
                assert answer.status == 200, await answer.text()
                return len(await answer.json())

        await wanted("a warm-up", 1)  # the model is loaded
        began_s = time.perf_counter()
        asked: list[Awaitable[int]] = [wanted(f"a red cube {n}", 4) for n in range(clients)]
        images = sum(await asyncio.gather(*asked))
        seconds = time.perf_counter() - began_s
    print(f"| {name} | {clients} | {images} | {seconds:.1f} | {images / seconds:.2f} |", flush=True)
    return images / seconds


if __name__ == "__main__":
    main()
