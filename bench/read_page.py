"""Time and memory of reading the replica's page: each design, as it is served and with all captions.

    python bench/read_page.py [--repeats 3]

Each reading has a process of its own. To compare with another version, run the same file with that
version first on PYTHONPATH.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import get_args

from pipeline.demo.replica.config import PageDesign, ReplicaConfig
from pipeline.demo.replica.holdings import Holdings
from pipeline.demo.replica.html import render_page

ALL = 1_000_000
_READ = """
import sys, time
from pathlib import Path
from scrapers.sources.dalleblog.captions import load_catalogue
from scrapers.sources.dalleblog.page import read_page
body, catalogue = Path(sys.argv[1]).read_bytes(), load_catalogue()
started = time.process_time()
content = read_page(body, base_url="http://127.0.0.1/blog/dall-e/", catalogue=catalogue)
seconds = time.process_time() - started
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(seconds, int(peak) / 1024, sum(len(s.section.given) for s in content.sections))
"""


def main() -> None:
    """Print a row for each page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(
        "| design | captions shown | bytes | keys read | CPU s | peak MiB |\n|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for shown in (ReplicaConfig().shown_captions, ALL):
            for design in get_args(PageDesign):
                page = Path(folder) / "page.html"
                page.write_text(page_of(design, shown), encoding="utf-8")
                cpu_s, peak_mb, keys = zip(*(read(page) for _ in range(repeats)), strict=True)
                print(
                    f"| {design} | {'all' if shown == ALL else shown} | {page.stat().st_size:,} | "
                    f"{int(keys[0]):,} | {statistics.median(cpu_s):.2f} | {max(peak_mb):.0f} |"
                )


def page_of(design: PageDesign, shown: int) -> str:
    """The replica's page."""
    holdings = Holdings(ReplicaConfig(design=design, shown_captions=shown))
    cdn = "/dall-e/v2" if design == "plain" else "http://127.0.0.1/dall-e/v2"
    return render_page(holdings, design=design, cdn=cdn)


def read(page: Path) -> tuple[float, float, float]:
    """Seconds, MiB and keys of one reading."""
    done = subprocess.run([sys.executable, "-c", _READ, str(page)], capture_output=True, check=True)
    seconds, peak_mb, keys = map(float, done.stdout.split())
    return seconds, peak_mb, keys


if __name__ == "__main__":
    main()
