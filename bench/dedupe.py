"""How fast near duplicates are found, beside faiss and brute force.

    python bench/dedupe.py [exact] [near] [skew] [peers] [large] [--repeats 3]

Without names all pieces run. Prints medians, in seconds of the clock and of the processor (the two
differ where the machine is shared), and memory as the sum over all processes of what only they
hold (Pss). The peer, if it is there: `pip install faiss-cpu`. See dedupe_images.py for inspection.
"""

from __future__ import annotations

import argparse
import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from meter import measure, peer

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.core.engine import count_cores
from pipeline.dedupe.clusters import Clusters, find_clusters
from pipeline.dedupe.column_file import write_column

MILLION = 1_100_000
PLANTED = 10_000
CROWD = 100_000
Hashes = npt.NDArray[np.uint64]


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
    return np.concatenate(list(planted_blocks(count, radius)))


def planted_blocks(count: int, radius: int) -> Iterator[Hashes]:
    first = spread(PLANTED)
    yield first
    rng = np.random.default_rng(2)
    for start in range(PLANTED, count - PLANTED, 1_000_000):
        size = min(1_000_000, count - PLANTED - start)
        yield rng.integers(0, 2**64, size, dtype=np.uint64)
    yield flip(first, radius)


def cluster(hashes: Hashes, radius: int) -> Clusters:
    with tempfile.TemporaryDirectory() as folder:
        file = write_column(Path(folder) / "hashes", [hashes])
        return find_clusters(file, radius, workers=None)


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
    crowds = [(f"up to {bits} bits from one", 1, bits) for bits in (0, 2, 3, 4, 6, 8)]
    crowds += [(f"up to {bits} bits from one of 100", 100, bits) for bits in (2, 4, 6, 8)]
    for name, centres, bits in crowds:
        skewed = hashes.copy()
        skewed[where] = flip(spread(centres, 6).repeat(CROWD // centres), bits)
        found, _ = measure(name, lambda h=skewed: cluster(h, 4), repeats)
        leaders = len(np.unique(found.leader[where]))
        distinct = len(np.unique(skewed[where]))
        print(f"  {'':<44} {distinct} different hashes in the crowds, {leaders} leaders")


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
        _bench_c(hashes, ours)
        _bench_faiss(hashes, ours)


_COUNT_NEAR = """
#include <stddef.h>
#include <stdint.h>
size_t count_near(const uint64_t *hashes, size_t count, size_t rows, int radius) {
    size_t found = 0;
    for (size_t one = 0; one < rows; one++)
        for (size_t other = one + 1; other < count; other++)
            found += __builtin_popcountll(hashes[one] ^ hashes[other]) <= radius;
    return found;
}
"""


def _bench_c(hashes: Hashes, ours: float) -> None:
    """Every pair once, by one core, with all that the compiler makes of this processor."""
    if shutil.which("cc") is None:
        print("  (no C compiler)")
        return
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/near.so"
        command = ["cc", "-O3", "-march=native", "-shared", "-fPIC", "-xc", "-", "-o", library]
        subprocess.run(command, input=_COUNT_NEAR.encode(), check=True)
        count_near = ctypes.CDLL(library).count_near
    count_near.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    rows = min(len(hashes), 2_000_000_000 // len(hashes))
    _, part = measure(
        f"C popcount, one core, {rows} rows only",
        lambda: count_near(hashes.ctypes.data, len(hashes), rows, 4), 1,
    )  # fmt: skip
    pairs = rows * (len(hashes) - rows / 2)
    whole = part * len(hashes) ** 2 / 2 / pairs
    print(f"  {'':<44} {whole:9.1f} s for all pairs ({whole / ours:.1f} × ours)")


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
    """Hashes that are never all in memory; they lie in a file, as the stage has them."""
    print("Ten times as many, by parts, radius 4:")
    for count in (MILLION, 2_000_000, 10 * MILLION):
        with tempfile.TemporaryDirectory() as folder:
            file = write_column(Path(folder) / "hashes", planted_blocks(count, 4))
            found, _ = measure(
                f"{count:>10,} hashes", lambda f=file: find_clusters(f, 4, workers=None), 1
            )
            print(f"  {'':<44} {check_planted(found)}")
            del found
    del repeats


PIECES: dict[str, Callable[[int], None]] = {
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
