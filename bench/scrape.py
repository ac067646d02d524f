"""How fast images come home, beside img2dataset and a bare pycurl client, from nginx on this machine.

    python bench/scrape.py [--sizes 17000,100000] [--images 20000] [--repeats 5]
                           [--scale 10000,100000,880000] [--img2dataset PATH] [--before CHECKOUT]
                           [--folder DIR]

`--sizes ''` only scales; `--img2dataset ''` leaves the peer out; `--before` is a checkout of another
version of this repository, which is measured beside this one.

All three in turn, in one run, `--repeats` times; medians and ratios. Seconds run from the first
request that nginx sees to the end of the process, so that start-up is nobody's loss; processor time
likewise, of the process and its children. Memory is the peak of Pss, which counts shared pages once.
Ours syncs before it counts an image as done, the others never do: the column "on disk" adds, to the
time of each, what `sync` takes when its process has ended. What a client wrote is deleted before the
next one begins.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from scrape_ours import NUM_RANKS, urls
from scrape_server import Nginx, make_pool

HERE = Path(__file__).parent
OURS, PEER, BARE = "pipeline scrape", "img2dataset", "pycurl, bare"
BEFORE = "pipeline scrape, before"
CATALOGUE_PNG = 2_500  # 880,000 of them fit on any disk.


class Result(NamedTuple):
    """One run of one client."""

    images: int
    seconds: float
    synced_s: float
    cpu_s: float
    peak_mb: float

    @property
    def rate(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def synced_rate(self) -> float:
        """Images a second that are on disk at the end."""
        return self.images / self.synced_s

    @property
    def cpu_per_1000(self) -> float:
        """Processor seconds per 1,000 images."""
        return 1000 * self.cpu_s / self.images


# --- Measuring -----------------------------------------------------------------------------------


def measure(command: list[str], images: int, nginx: Nginx | None) -> Result:
    """Run a command and watch it and its children; SystemExit if it fails.

    Without `nginx` all of it counts, from its start.
    """
    os.sync()
    cpu_before = 0.0
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        if nginx is not None:
            _wait_for_request(process, nginx)
            started, cpu_before = time.perf_counter(), _cpu_s(_family(process.pid))
        with Watch(process.pid) as watch:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{command} failed:\n{output.read()[-3000:].decode()}")
    os.sync()
    synced_s = time.perf_counter() - started
    cpu_s = max(watch.cpu_s, usage.ru_utime + usage.ru_stime) - cpu_before
    return Result(images, seconds, synced_s, cpu_s, watch.peak_mb)


class Watch:
    """Looks at a process and its children, in a thread, as long as the block lasts."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.cpu_s = self.peak_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            family = _family(self.pid)
            self.cpu_s = max(self.cpu_s, _cpu_s(family))
            self.peak_mb = max(self.peak_mb, sum(map(_pss_mb, family)))


def _wait_for_request(process: subprocess.Popen[bytes], nginx: Nginx) -> None:
    """Wait until nginx has seen a request beyond those that ask it for their number."""
    seen = nginx.requests()
    while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.02)
        found = nginx.requests()
        if found > seen + 1:
            return
        seen = found


def _family(pid: int) -> list[int]:
    family = [pid]
    for member in family:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{member}/task").iterdir():
                family += map(int, (task / "children").read_text().split())
    return family


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(family: list[int]) -> float:
    ticks = 0
    for pid in family:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


# --- Clients -------------------------------------------------------------------------------------


def ours(
    base: str, captions: int, out: Path, concurrency: int, checkout: Path = HERE.parent
) -> list[str]:
    """Our crawl into the workspace `out`."""
    script = str(checkout / "bench" / "scrape_ours.py")
    run = ["env", f"PYTHONPATH={checkout}", sys.executable, script]
    return [*run, base, str(captions), str(out), str(concurrency)]


def bare(listed: Path, out: Path, concurrency: int) -> list[str]:
    """The pycurl client into one file under `out`."""
    out.mkdir()
    script = str(HERE / "scrape_pycurl.py")
    return [sys.executable, script, str(listed), str(out / "bytes"), str(concurrency)]


def peer(program: str, listed: Path, out: Path) -> list[str]:
    """img2dataset: webdataset output, 2 processes × 64 threads, bytes as they came, sha256."""
    options = {
        "url_list": listed,
        "input_format": "txt",
        "output_folder": out,
        "output_format": "webdataset",
        "processes_count": 2,
        "thread_count": 64,
        "resize_mode": "no",
        "disable_all_reencoding": True,
        "compute_hash": "sha256",
    }
    return [program, *(f"--{name}={value}" for name, value in options.items())]


def compare(options: argparse.Namespace, folder: Path, nginx: Nginx, size: int) -> None:
    """Run all clients in turn on one size and print their table."""
    pool = f"p{size}"
    mean = make_pool(folder / pool, size)
    base, captions = f"{nginx.url}/{pool}", options.images // NUM_RANKS
    images = captions * NUM_RANKS
    listed = folder / "urls.txt"
    listed.write_text("\n".join(urls(base, captions)) + "\n")
    commands: dict[str, Callable[[Path], list[str]]] = {
        OURS: lambda out: ours(base, captions, out, options.concurrency),
        BARE: lambda out: bare(listed, out, options.concurrency),
    }
    if options.before:
        commands[BEFORE] = lambda out: ours(
            base, captions, out, options.concurrency, options.before.resolve()
        )
    if options.img2dataset:
        commands[PEER] = lambda out: peer(options.img2dataset, listed, out)
    runs: dict[str, list[Result]] = {name: [] for name in commands}
    for _ in range(options.repeats):
        for name, command in commands.items():
            out = folder / "out"
            runs[name].append(measure(command(out), images, nginx))
            if name == PEER:
                _check_peer(out, images)
            shutil.rmtree(out)
    show(f"{images:,} PNGs of {mean:,} bytes", {k: median(v) for k, v in runs.items()})


def _check_peer(out: Path, images: int) -> None:
    import json

    done = sum(json.loads(path.read_bytes())["successes"] for path in out.glob("*_stats.json"))
    if done != images:
        print(f"  img2dataset brought only {done:,} of {images:,} images", flush=True)


def median(runs: list[Result]) -> Result:
    """The median of each column by itself."""
    return Result(*(statistics.median(column) for column in zip(*runs, strict=True)))  # type: ignore[arg-type]


def show(title: str, results: dict[str, Result]) -> None:
    """Print one table; ratios are ours to the other's."""
    heads = ("images/s", "on disk/s", "CPU s/1,000", "peak MB")
    print(f"\n{title:32s}" + "".join(f"{head:>13s}" for head in heads), flush=True)
    mine = results[OURS]
    for name, found in results.items():
        line = f"  {name:30s}{found.rate:13,.0f}{found.synced_rate:13,.0f}"
        line += f"{found.cpu_per_1000:13.3f}{found.peak_mb:13,.0f}"
        if name != OURS:
            line += f"   ours: {mine.rate / found.rate:.2f}×"
            line += f", {mine.synced_rate / found.synced_rate:.2f}×"
            line += f", {mine.cpu_s / found.cpu_s:.2f}×, {mine.peak_mb / found.peak_mb:.2f}×"
        print(line, flush=True)


# --- The whole catalogue -------------------------------------------------------------------------


def scale(options: argparse.Namespace, folder: Path, nginx: Nginx) -> None:
    """Crawl more and more, and ask a finished crawl again."""
    mean = make_pool(folder / "small", CATALOGUE_PNG)
    heads = ("images/s", "CPU s/1,000", "peak MB", "minutes", "again, s")
    title = f"One run, PNGs of {mean:,} bytes"
    print(f"\n{title:32s}" + "".join(f"{head:>13s}" for head in heads), flush=True)
    for wanted in options.scale:
        captions = wanted // NUM_RANKS
        images = captions * NUM_RANKS
        command = ours(f"{nginx.url}/small", captions, folder / "out", options.concurrency)
        first = measure(command, images, nginx)
        again = measure(command, images, None)
        line = f"  {f'{images:,} URLs':30s}{first.rate:13,.0f}{first.cpu_per_1000:13.3f}"
        line += f"{first.peak_mb:13,.0f}{first.seconds / 60:13.2f}{again.seconds:13.1f}"
        print(line, flush=True)
        shutil.rmtree(folder / "out")
        os.sync()


# --- The command line ----------------------------------------------------------------------------


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    """Compare, then scale."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=_numbers, default=[17_000, 100_000], help="bytes of a PNG")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=_numbers, default=[], help="URLs in one run")
    parser.add_argument(
        "--concurrency", type=int, default=32, help="connections, ours and pycurl's"
    )
    parser.add_argument("--before", type=Path, help="another checkout to measure in the same run")
    parser.add_argument(
        "--img2dataset", default=shutil.which("img2dataset"), help="its program (empty: without)"
    )
    parser.add_argument("--folder", type=Path, default=None, help="where to write (default: /tmp)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with Nginx(folder).serving() as nginx:
            for size in options.sizes:
                compare(options, folder, nginx, size)
            if options.scale:
                scale(options, folder, nginx)


if __name__ == "__main__":
    main()
