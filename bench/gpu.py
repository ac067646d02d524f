"""What a GPU does with this package: training, encoding and drawing, beside the programs people use.

    python bench/gpu.py [--out gpu.json] [--minutes 8] [--only NAME …] [--smoke]

Parts run in the order of their worth, each in a process of its own and with its own time limit. What a part
has measured stays if it is cut short: in gpu.json, which is written after every row, and in the tables. A
part that needs a package that isn't there says so, and the others go on. Needs torch, numpy and this
package's checkout; --smoke runs everything in small on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SCRIPT = Path(__file__).resolve()
sys.path.insert(0, str(SCRIPT.parents[1]))

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a part runs, and whether only to see that it does."""

    device: Literal["cuda", "cpu"]
    smoke: bool


Measure = Callable[[Place], Iterator[Row]]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A measurement: a generator `module:function` of table rows, and the seconds that it may take."""

    name: str
    title: str
    measure: str
    limit_s: int


# In the order of their worth: the first ones decide whether the rest matters.
PARTS = (
    Part(
        name="device",
        title="The device",
        measure="bench.gpu_train:measure_device",
        limit_s=40,
    ),
    Part(
        name="train",
        title="Training the dalleblog shape (12 × 544, 352 positions), bf16",
        measure="bench.gpu_train:measure_training",
        limit_s=100,
    ),
    Part(
        name="train-stock",
        title="The same with dalle-pytorch 1.6.6, fp16",
        measure="bench.gpu_train:measure_stock",
        limit_s=60,
    ),
    Part(
        name="encode",
        title="Encoding, VQGAN f16-16384 at 256 × 256",
        measure="bench.gpu_encode:measure_encoding",
        limit_s=60,
    ),
    Part(
        name="encode-stock",
        title="The same with dalle-pytorch's VQGanVAE",
        measure="bench.gpu_encode:measure_stock_encoding",
        limit_s=45,
    ),
    Part(
        name="draw",
        title="Drawing 256 codes an image, dalleblog shape",
        measure="bench.gpu_draw:measure_drawing",
        limit_s=60,
    ),
    Part(
        name="draw-stock",
        title="The same with dalle-pytorch 1.6.6 (summed from three positions)",
        measure="bench.gpu_draw:measure_stock_drawing",
        limit_s=60,
    ),
    Part(
        name="encode-files",
        title="Encoding from PNG files",
        measure="bench.gpu_encode:measure_encoding_files",
        limit_s=45,
    ),
    Part(
        name="train-wide",
        title="Training a wider model (24 × 1,024), bf16",
        measure="bench.gpu_train:measure_wide",
        limit_s=60,
    ),
    Part(
        name="train-attention",
        title="Attention forward and backward, by kind and kernel",
        measure="bench.gpu_train:measure_attention",
        limit_s=50,
    ),
    Part(
        name="train-graphs",
        title="Training with CUDA graphs",
        measure="bench.gpu_train:measure_graphs",
        limit_s=50,
    ),
    Part(
        name="draw-kinds",
        title="Drawing by kind of attention, and in a continuous batch of 64 rows",
        measure="bench.gpu_draw:measure_drawing_kinds",
        limit_s=50,
    ),
)


def run_part(name: str, place: Place) -> None:
    """Run a part in this process: one JSON line per row on stdout."""
    part = next(part for part in PARTS if part.name == name)
    module, _, function = part.measure.partition(":")
    measure: Measure = getattr(importlib.import_module(module), function)
    for row in measure(place):
        print(json.dumps(row), flush=True)


def run_in_child(part: Part, place: Place, *, limit_s: float, keep: Callable[[Row], None]) -> str:
    """Run a part in a process of its own; `keep` gets its rows as they come. Returns how it ended."""
    command = [sys.executable, str(SCRIPT), "--part", part.name]
    command += ["--device", place.device, *(["--smoke"] if place.smoke else [])]
    # Threads that wait must not count as work.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        errors: list[str] = []
        reader = threading.Thread(target=errors.extend, args=(child.stderr,), daemon=True)
        reader.start()
        late = threading.Event()
        timer = threading.Timer(limit_s, _end, args=(child, late))
        timer.start()
        for line in child.stdout:
            if line.startswith("{"):
                keep(json.loads(line))
        code = child.wait()
        timer.cancel()
        reader.join(timeout=5)
    if late.is_set():
        return f"cut after {limit_s:.0f} s"
    return "done" if code == 0 else f"failed: {_last_line(errors) or f'exit code {code}'}"


def _end(child: subprocess.Popen[str], late: threading.Event) -> None:
    """End a child that is out of time, with what it started."""
    late.set()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _last_line(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def print_table(title: str, rows: Sequence[Row], ended: str) -> None:
    """Print rows under the names of their values; values are aligned, units are in the names."""
    print(f"\n{title}{'' if ended == 'done' else f' ({ended})'}")
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    for line in (names, *cells) if rows else ():
        texts = [
            text.rjust(width) if number else text.ljust(width)
            for number, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  " + "  ".join(texts).rstrip(), flush=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write the results so far, by rename."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(results, indent=1) + "\n")
    partial.replace(path)


def measure_all(
    parts: Sequence[Part], place: Place, *, out: Path, seconds: float
) -> dict[str, Any]:
    """Run the parts until the time is over; returns what is in gpu.json."""
    began = time.monotonic()
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "device": place.device,
        "smoke": place.smoke,
        "parts": {},
    }
    for part in parts:
        left = seconds - (time.monotonic() - began)
        rows: list[Row] = []
        result: Row = {"title": part.title, "ended": "no time left", "rows": rows}
        results["parts"][part.name] = result

        def keep(row: Row, rows: list[Row] = rows) -> None:
            rows.append(row)
            write_results(out, results)

        started = time.monotonic()
        if left > 0:
            result["ended"] = run_in_child(part, place, limit_s=min(part.limit_s, left), keep=keep)
        result["seconds"] = round(time.monotonic() - started, 1)
        write_results(out, results)
        print_table(part.title, rows, str(result["ended"]))
    print(f"\n{out}: {time.monotonic() - began:.0f} s")
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; returns 1 if a part failed (not if it was cut short)."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="*", choices=[part.name for part in PARTS])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--smoke", action="store_true", help="in small, on a CPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    place = Place(device="cpu" if options.smoke else options.device, smoke=options.smoke)
    if options.part:
        run_part(options.part, place)
        return 0
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    results = measure_all(parts, place, out=options.out, seconds=60 * options.minutes - 10)
    ends = [result["ended"] for result in results["parts"].values()]
    return int(any(end.startswith("failed") for end in ends))


if __name__ == "__main__":
    raise SystemExit(main())
