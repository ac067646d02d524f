"""Lists of many hosts: how fast, in how much memory, and whether each host's pace is kept.

    python bench/many_hosts.py [--hosts 10000] [--images 5] [--rate 2] [--sizes 17000,100000]
                               [--peer-hosts 100] [--peer-images 20000] [--img2dataset PATH] [--folder DIR]

Every host name is resolved to one of 50 addresses of this machine, each lookup taking 50 ms; nginx answers
at all of them. **fast**: a shuffled list, as fast as it goes. **paced**: a list sorted by host with `--rate`;
the server's log shows the most requests that began within a second at any host, robots.txt included, and the
shortest time between two of them, to the millisecond and as late as the server was. Then, beside
img2dataset in the same run, lists of `--peer-hosts` hosts at addresses of their own.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from scrape import OURS, PEER, Result, measure, median, peer, show
from scrape_server import Nginx, make_pool

HERE = Path(__file__).parent
ADDRESSES, LOOKUP_S = 50, 0.05


def ours(listed: Path, out: Path, *, rate: float = 0.0, lookup_s: float = 0.0) -> list[str]:
    """Our crawl of a list into the workspace `out`."""
    script = str(HERE / "many_hosts_ours.py")
    run = ["env", f"PYTHONPATH={HERE.parent}", sys.executable, script]
    return [*run, str(listed), str(out), str(ADDRESSES), str(rate), str(lookup_s)]


def write_list(path: Path, pool: str, rows: Iterable[tuple[str, int]]) -> None:
    """Write a list of (host and port, number of the image)."""
    with path.open("w") as file:
        file.write("url\tcaption\n")
        for host, number in rows:
            url = f"http://{host}/{pool}/samples/a{number}_{number % 32}.png"
            file.write(f"{url}\ta caption of {host} and number {number}\n")


def read_pace(log: Path) -> tuple[int, float]:
    """The most requests that one host got within a second, and the shortest gap, by nginx's log."""
    times: dict[str, list[float]] = defaultdict(list)
    for line in log.read_text().splitlines():
        ended, took, host = line.split()
        times[host].append(float(ended) - float(took))
    most, shortest = 0, float("inf")
    for found in (sorted(times[host]) for host in times if host.endswith(".test")):
        shortest = min(shortest, *(after - before for before, after in pairwise(found)))
        first = 0
        for last, second in enumerate(found):
            while second - found[first] >= 1.0:
                first += 1
            most = max(most, last - first + 1)
    return most, shortest


def many(options: argparse.Namespace, folder: Path, *, rate: float) -> None:
    """One crawl of all hosts: as fast as it goes, or at a rate per host."""
    make_pool(folder / "p17000", 17_000)
    rows = [(host, number) for host in range(options.hosts) for number in range(options.images)]
    if not rate:
        random.Random(0).shuffle(rows)
    with Nginx(folder, num_addresses=ADDRESSES, log=bool(rate)).serving() as nginx:
        named = ((f"h{host:05d}.test:{nginx.port}", number) for host, number in rows)
        write_list(folder / "list.tsv", "p17000", named)
        command = ours(folder / "list.tsv", folder / "out", rate=rate, lookup_s=LOOKUP_S)
        found = measure(command, len(rows), nginx)
    line = f"{found.rate:,.0f} images/s, {found.seconds:.1f} s, {found.peak_mb:,.0f} MB"
    if rate:
        most, shortest = read_pace(folder / "requests.log")
        line += (
            f"; at most {most} requests to a host within a second, {shortest:.3f} s apart or more"
        )
        line += f" (--rate {rate:g})"
    order = "sorted by host" if rate else "shuffled"
    print(f"  {options.hosts:,} hosts, {len(rows):,} images, {order}: {line}", flush=True)


def beside_peer(options: argparse.Namespace, folder: Path, size: int) -> None:
    """Ours and img2dataset in turn on the same list."""
    pool = f"p{size}"
    mean = make_pool(folder / pool, size)
    with Nginx(folder, num_addresses=options.peer_hosts).serving() as nginx:
        rows = [
            (f"127.0.0.{number % options.peer_hosts + 1}:{nginx.port}", number)
            for number in range(options.peer_images)
        ]
        write_list(folder / "list.tsv", pool, rows)
        urls = (line.split("\t")[0] for line in (folder / "list.tsv").read_text().splitlines()[1:])
        (folder / "urls.txt").write_text("\n".join(urls) + "\n")
        commands = {OURS: ours(folder / "list.tsv", folder / "out")}
        if options.img2dataset:
            commands[PEER] = peer(options.img2dataset, folder / "urls.txt", folder / "out")
        runs: dict[str, list[Result]] = {name: [] for name in commands}
        for _ in range(options.repeats):
            for name, command in commands.items():
                runs[name].append(measure(command, len(rows), nginx))
                shutil.rmtree(folder / "out")
    title = f"{len(rows):,} PNGs of {mean:,} bytes, {options.peer_hosts} hosts"
    show(title, {name: median(found) for name, found in runs.items()})
    if options.img2dataset:
        pairs = zip(runs[OURS], runs[PEER], strict=True)
        ratio = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
        print(f"  median ratio of rates: {ratio:.2f}×", flush=True)


def main() -> None:
    """Many hosts, then beside the peer."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=10_000, help="0: only beside the peer")
    parser.add_argument("--images", type=int, default=5, help="per host")
    parser.add_argument("--rate", type=float, default=2.0)
    parser.add_argument("--sizes", default="17000,100000")
    parser.add_argument("--peer-hosts", type=int, default=100)
    parser.add_argument("--peer-images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--img2dataset", default=shutil.which("img2dataset"))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    for rate in (0.0, options.rate) if options.hosts else ():
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            Path(name).chmod(0o755)
            many(options, Path(name), rate=rate)
    for size in map(int, filter(None, options.sizes.split(","))):
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            Path(name).chmod(0o755)
            beside_peer(options, Path(name), size)


if __name__ == "__main__":
    main()
