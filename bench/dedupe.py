"""How fast images are inspected and near duplicates found, beside other decoders and faiss.

    python bench/dedupe.py [decoders] [inspect] [exact] [near] [skew] [peers] [large] [--repeats 3]

Without names all pieces run. Prints medians, in seconds of the clock and of the processor (the two
differ where the machine is shared), and memory as the sum over all processes of what only they
hold (Pss). Peers, if they are there: `pip install faiss-cpu opencv-python-headless`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyspng
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.dedupe.clusters import Clusters, find_clusters
from pipeline.dedupe.inspection import InspectionPart, Place, inspect_image, inspect_part
from pipeline.engine import count_cores, map_parts

MILLION = 1_100_000
PLANTED = 10_000
CROWD = 100_000
PART_IMAGES = 64
Hashes = npt.NDArray[np.uint64]


# --- Measuring -----------------------------------------------------------------------------------


class Meter:
    """Clock, processor time and peak memory of this process and those it starts."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.peak_mb = 0.0
        self._base_mb = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> Meter:
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._started, self._cpu = time.perf_counter(), _tree_cpu_s()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall_s = time.perf_counter() - self._started
        self.cpu_s = max(_tree_cpu_s(), self._last_cpu) - self._cpu
        self._stop.set()
        self._watcher.join()

    _last_cpu = 0.0

    def _watch(self) -> None:
        while not self._stop.wait(0.05):
            self._last_cpu = max(self._last_cpu, _tree_cpu_s())
            self.peak_mb = max(self.peak_mb, sum(_pss_mb(pid) for pid in _family()))


def _family() -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rsplit(")")[-1].split()[1]
                )
    family = [os.getpid()]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def _pss_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    return 0.0


def _tree_cpu_s() -> float:
    ticks = 0
    for pid in _family():
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(name: str, work: Callable[[], Any], repeats: int, note: str = "") -> tuple[Any, float]:
    """Run `work`, print its medians, return its last value and the median clock time."""
    meters, value = [], None
    for _ in range(repeats):
        with Meter() as meter:
            value = work()
        meters.append(meter)
    wall = statistics.median(m.wall_s for m in meters)
    cpu = statistics.median(m.cpu_s for m in meters)
    peak = max(m.peak_mb for m in meters)
    print(f"  {name:<44} {wall:9.2f} s  {cpu:9.2f} cpu s  {peak:7.0f} MB  {note}", flush=True)
    return value, wall


def cpu_rate(work: Callable[[bytes], Any], files: list[bytes], repeats: int) -> float:
    """Files per second of this processor, the median of `repeats` passes."""
    rates = []
    for _ in range(repeats):
        started = time.process_time()
        for data in files:
            work(data)
        rates.append(len(files) / (time.process_time() - started))
    return statistics.median(rates)


def peer(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"  ({name} is not installed)")
        return None


# --- Images --------------------------------------------------------------------------------------


def make_photos(count: int, side: int = 256) -> list[bytes]:
    """PNGs with the spectrum of photographs, some 150 kB each at 256×256."""
    rng = np.random.default_rng(0)
    down, across = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    falloff = np.maximum(np.hypot(down, across), 1 / side) ** 1.2
    files = []
    for _ in range(count):
        spectrum = np.fft.rfft2(rng.normal(size=(3, side, side))) / falloff
        values = np.fft.irfft2(spectrum, axes=(1, 2))
        values = (values - values.mean()) / values.std() * 50 + 128
        pixels = np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        files.append(buffer.getvalue())
    return files


def bench_decoders(repeats: int) -> None:
    files = make_photos(100)
    size = statistics.mean(map(len, files)) / 1000
    print(f"Decoders, 256×256 PNG of {size:.0f} kB, images a second of one core:")
    decoders: dict[str, Callable[[bytes], Any]] = {
        "pyspng": pyspng.load,
        "Pillow": lambda data: np.asarray(Image.open(io.BytesIO(data))),
    }
    if cv2 := peer("cv2"):
        decoders["OpenCV"] = lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), 1)
    rates = {name: cpu_rate(decode, files, repeats) for name, decode in decoders.items()}
    place = Place("", "", 0, 0, False)

    def inspect(data: bytes) -> None:
        hashlib.sha256(data).hexdigest()  # as `inspect_part` does with every file it reads
        inspect_image(place, data, max_pixels=10**7)

    rates["inspection with pyspng, all of it"] = cpu_rate(inspect, files, repeats)
    for name, rate in rates.items():
        print(f"  {name:<44} {rate:7.0f}/s   {rate / rates['pyspng']:5.2f} × pyspng")


def bench_inspect(repeats: int) -> None:
    files = make_photos(200)
    print(f"Inspection from segments on {count_cores()} cores; memory must not grow:")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places, offset = [], 0
        with (folder / "00000.tar").open("wb") as segment:
            for data in files:
                segment.write(data)
                sha256 = hashlib.sha256(data).hexdigest()
                places.append(Place(sha256, "00000.tar", offset, len(data), False))
                offset += len(data)
        for images in (1_000, 4_000, 16_000):
            note = f"{images} images"
            _, wall = measure(note, lambda n=images: _inspect(folder, places, n), 1)
            print(f"  {'':<44} {images / wall:9.0f}/s")
    del repeats


def _inspect(folder: Path, places: list[Place], images: int) -> None:
    def parts() -> Iterator[InspectionPart]:
        for start in range(0, images, PART_IMAGES):
            chosen = tuple(places[n % len(places)] for n in range(start, start + PART_IMAGES))
            yield InspectionPart(folder, 10**7, chosen)

    for result in map_parts(inspect_part, parts()):
        assert result.failure is None


# --- Hashes --------------------------------------------------------------------------------------


def spread(count: int, seed: int = 0) -> Hashes:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def flip(hashes: Hashes, bits: int, seed: int = 1) -> Hashes:
    """Each hash with up to `bits` bits flipped."""
    rng = np.random.default_rng(seed)
    flipped = hashes.copy()
    for _ in range(bits):
        flipped ^= np.uint64(1) << rng.integers(0, 64, len(hashes), dtype=np.uint64)
    return flipped


def planted(count: int, radius: int) -> Hashes:
    """Spread hashes of which the last 10,000 are near the first."""
    hashes = spread(count)
    hashes[-PLANTED:] = flip(hashes[:PLANTED], radius)
    return hashes


def cluster(hashes: Hashes, radius: int) -> Clusters:
    with tempfile.TemporaryDirectory() as folder:
        return find_clusters(hashes, radius, scratch=Path(folder) / "hashes", workers=None)


def near_pairs(hashes: Hashes, radius: int) -> set[tuple[int, int]]:
    """Brute force: every pair, by XOR and popcount."""
    pairs = set()
    for one in range(len(hashes) - 1):
        close = np.flatnonzero(np.bitwise_count(hashes[one + 1 :] ^ hashes[one]) <= radius)
        pairs |= {(one, one + 1 + int(other)) for other in close}
    return pairs


def check_planted(found: Clusters) -> str:
    hits = int((found.group[-PLANTED:] == found.group[:PLANTED]).sum())
    return f"{hits} of {PLANTED} planted pairs found"


def bench_exact(repeats: int) -> None:
    print("Exactness on 50,000 hashes, half of them in crowds, against brute force:")
    hashes = np.concatenate([planted(30_000, 4), flip(spread(40, 7).repeat(500), 5, 2)])
    pairs = near_pairs(hashes, 4)
    found = cluster(hashes, 4)
    missed = sum(found.group[a] != found.group[b] for a, b in pairs)
    linked = np.arange(len(hashes))
    for one, other in sorted(pairs):
        low, high = sorted((_root(linked, one), _root(linked, other)))
        linked[high] = low
    expected = np.array([_root(linked, n) for n in range(len(hashes))])
    far = int((np.bitwise_count(hashes ^ hashes[found.leader]) > 4).sum())
    print(f"  {len(pairs)} near pairs, {missed} missed; groups equal: "
          f"{bool((expected == found.group).all())}; {far} rows outside their leader's radius")  # fmt: skip
    del repeats


def _root(parent: npt.NDArray[np.int64], node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = int(parent[node])
    return node


def bench_near(repeats: int) -> None:
    print(f"Near duplicates of spread hashes on {count_cores()} cores:")
    for radius in (4, 8):
        for count in (100_000, 300_000, MILLION):
            hashes = planted(count, radius)
            times = repeats if radius == 4 else 1
            with_note = f"{count:>9,} hashes, radius {radius}"
            found, _ = measure(with_note, lambda h=hashes, r=radius: cluster(h, r), times)
            print(f"  {'':<44} {check_planted(found)}")


def bench_skew(repeats: int) -> None:
    print(f"{MILLION:,} hashes of which {CROWD:,} are around one, radius 4:")
    hashes = spread(MILLION)
    measure("all spread", lambda: cluster(hashes, 4), repeats)
    where = np.random.default_rng(5).choice(MILLION, CROWD, replace=False)
    for bits in (0, 2, 3, 4, 6, 8):
        skewed = hashes.copy()
        skewed[where] = flip(np.full(CROWD, 0x0123456789ABCDEF, dtype=np.uint64), bits)
        found, _ = measure(f"up to {bits} bits from one", lambda h=skewed: cluster(h, 4), repeats)
        leaders = len(np.unique(found.leader[where]))
        distinct = len(np.unique(skewed[where]))
        print(f"  {'':<44} {distinct} different hashes in the crowd, {leaders} leaders")


def bench_peers(repeats: int) -> None:
    print("Peers, all near pairs at radius 4 (faiss on all cores):")
    for count in (100_000, MILLION):
        hashes = planted(count, 4)
        found, ours = measure(
            f"{count:>9,} ours, clusters and groups", lambda h=hashes: cluster(h, 4), repeats
        )
        print(f"  {'':<44} {check_planted(found)}")
        sample = hashes[: 200_000_000 // count]
        _, part = measure(
            f"{count:>9,} numpy popcount, {len(sample)} rows only",
            lambda h=hashes, s=sample: [np.bitwise_count(h ^ one) <= 4 for one in s], 1,
        )  # fmt: skip
        whole = part * count / len(sample) / 2
        print(f"  {'':<44} {whole:9.0f} s for all pairs ({whole / ours:.0f} × ours)")
        _bench_faiss(hashes, ours)


def _bench_faiss(hashes: Hashes, ours: float) -> None:
    if not (faiss := peer("faiss")):
        return
    codes = hashes.view(np.uint8).reshape(-1, 8)
    flat = faiss.IndexBinaryFlat(64)
    flat.add(codes)
    sample = codes[: max(1, 4_000_000_000 // len(codes))][: len(codes)]
    _, wall = measure(
        f"faiss IndexBinaryFlat, {len(sample)} rows only", lambda: flat.range_search(sample, 5), 1
    )
    whole = wall * len(codes) / len(sample)
    print(f"  {'':<44} {whole:9.1f} s for all rows ({whole / ours:.1f} × ours)")

    def multi_hash() -> tuple[Any, Any, Any]:
        index = faiss.IndexBinaryMultiHash(64, 3, 21)
        index.nflip = 1
        index.add(codes)
        result: tuple[Any, Any, Any] = index.range_search(codes, 5)
        return result

    (limits, _, ids), wall = measure("faiss IndexBinaryMultiHash 3×21 bits, 1 flip", multi_hash, 1)
    hits = sum(len(codes) - PLANTED + n in ids[limits[n] : limits[n + 1]] for n in range(PLANTED))
    print(f"  {'':<44} {wall / ours:9.1f} × ours; {hits} of {PLANTED} planted pairs found")


def bench_large(repeats: int) -> None:
    print("Ten times as many, by parts, radius 4:")
    hashes = planted(10 * MILLION, 4)
    found, _ = measure(f"{len(hashes):>9,} hashes", lambda: cluster(hashes, 4), 1)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"  {'':<44} {check_planted(found)}; peak of the main process {own} MB")
    del repeats


PIECES: dict[str, Callable[[int], None]] = {
    "decoders": bench_decoders,
    "inspect": bench_inspect,
    "exact": bench_exact,
    "near": bench_near,
    "skew": bench_skew,
    "peers": bench_peers,
    "large": bench_large,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the stage dedupe.")
    parser.add_argument("pieces", nargs="*", help=" ".join(PIECES))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    if unknown := set(arguments.pieces) - set(PIECES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(PIECES)}")
    for name in arguments.pieces or PIECES:
        PIECES[name](arguments.repeats)
        print()


if __name__ == "__main__":
    main()
