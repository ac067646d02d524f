"""Clock, processor time and memory of a piece of work and of the processes it starts."""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any


class ResourceMeter:
    """Clock, processor time and peak memory of this process and those it starts."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0
        self.peak_mb = 0.0
        self._base_mb = 0.0
        self._stop = threading.Event()

    def __enter__(self) -> ResourceMeter:
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
        with ResourceMeter() as meter:
            value = work()
        meters.append(meter)
    wall = statistics.median(m.wall_s for m in meters)
    cpu = statistics.median(m.cpu_s for m in meters)
    peak = max(m.peak_mb for m in meters)
    print(f"  {name:<44} {wall:9.2f} s  {cpu:9.2f} cpu s  {peak:7.0f} MB  {note}", flush=True)
    return value, wall


def peer(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except ImportError:
        print(f"  ({name} is not installed)")
        return None
