"""The checks of the machine: cores, memory, disk, and settings in the environment."""

from __future__ import annotations

import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.app.doctor.check import Check, State
from pipeline.core.cache import default_cache
from pipeline.core.estimate import existing_folder, free_bytes

_SECTION = "Machine"
_BF16 = re.compile(r"\b(?:avx512_bf16|amx_bf16|avx_ne_convert|bf16)\b")
_LEAST_FREE = 500_000_000
_CHUNK = 1 << 20
_MOST_CHUNKS, _MOST_SECONDS = 64, 0.5
# Variables that change what torch and the pipeline do; options of ours are named without their values.
_SHOWN = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "RAY_ADDRESS", "TMPDIR", "XDG_CACHE_HOME")


def check_cores(root: Path = Path("/")) -> Check:
    """The cores that this process may use, and whether they compute in bf16."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = _cpu_limit(root)
    found = f"{allowed} of {os.cpu_count()}, {platform.machine()}"
    if limit is not None:
        found += f", limited to {limit:g} by the container"
    bf16 = _has_bf16(root)
    facts = {"cores": allowed, "limit": limit, "bf16": bf16}
    advice = "" if bf16 is not False else "No bf16 instructions: use fp32 on the CPU"
    known = {True: "bf16 instructions", False: "no bf16", None: "bf16 not known"}[bf16]
    return Check(
        section=_SECTION,
        name="cores",
        state="ok",
        found=f"{found}, {known}",
        advice=advice,
        facts=facts,
    )


def _has_bf16(root: Path) -> bool | None:
    """Whether the CPU has instructions for bf16; None where it can't be seen."""
    text = _read(root / "proc/cpuinfo")
    return None if text is None else _BF16.search(text) is not None


def _cpu_limit(root: Path) -> float | None:
    """The cores that the control group allows, None without a limit."""
    quota, _, period = (_read(root / "sys/fs/cgroup/cpu.max") or "max").strip().partition(" ")
    if not quota.isdigit():
        quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
        period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    numbers = quota.strip(), period.strip()
    return int(quota) / int(period) if all(text.isdigit() for text in numbers) else None


def check_memory(root: Path = Path("/")) -> Check:
    """Memory in all, available now, and the container's limit."""
    sizes = dict(re.findall(r"^(\w+): +(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE))
    total = int(sizes["MemTotal"]) * 1024 if "MemTotal" in sizes else _physical_memory()
    available = int(sizes["MemAvailable"]) * 1024 if "MemAvailable" in sizes else None
    limit = _memory_limit(root)
    found = f"{_gb(total)} in all"
    if available is not None:
        found += f", {_gb(available)} available"
    if limit is not None and limit < total:
        found += f", limited to {_gb(limit)} by the container"
    facts = {"bytes": total, "available": available, "limit": limit}
    return Check(section=_SECTION, name="memory", state="ok", found=found, facts=facts)


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _memory_limit(root: Path) -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        text = (_read(root / "sys/fs/cgroup" / name) or "").strip()
        if text.isdigit():
            return int(text)
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


# --- Disk ----------------------------------------------------------------------------------------


def check_disk(
    workspace: Path, rate_of: Callable[[Path], float] | None = None, free: int | None = None
) -> Check:
    """Room and write rate where the workspace is or will be; nothing is left there.

    `rate_of` returns bytes per second and raises OSError if the folder can't be written to.
    """
    folder = existing_folder(workspace)
    state: State = "bad"
    advice, rate = "", None
    try:
        room = free_bytes(folder) if free is None else free
        found = f"{_gb(room)} free in {folder}"
        if room < _LEAST_FREE:
            advice = "Free some space, or give another folder as --workspace"
        else:
            rate = (rate_of or write_rate)(folder)
            state, found = "ok", f"{found}, writes {rate / 1e6:,.0f} MB/s"
    except OSError as error:
        room, found = 0, f"{folder} can't be written to: {error.strerror}"
        advice = "Give a folder of your own as --workspace"
    facts = {"folder": str(folder), "free": room, "bytes_per_s": rate and round(rate)}
    return Check(
        section=_SECTION,
        name="disk",
        state=state,
        found=found,
        advice=advice,
        needed=True,
        facts=facts,
    )


def write_rate(folder: Path, clock: Callable[[], float] = time.perf_counter) -> float:
    """Bytes per second that reach the disk: up to 64 MiB or half a second, to a file without a name."""
    chunk = os.urandom(_CHUNK)
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = clock()
        written, passed = 0, 0.0
        while written < _MOST_CHUNKS * _CHUNK and passed < _MOST_SECONDS:
            written += file.write(chunk) or 0
            os.fsync(file.fileno())
            passed = clock() - began
    return written / max(passed, 1e-9)


def check_cache(folder: Callable[[], Path] = default_cache) -> Check:
    """Whether the folder for downloaded codecs and tokenizers can be written to."""
    state: State = "bad"
    try:
        cache = folder()
        with tempfile.TemporaryFile(dir=existing_folder(cache)):
            state, found = "ok", str(cache)
    except OSError as error:
        found = f"{cache} can't be written to: {error.strerror}"
    except RuntimeError:
        found = "there is no home folder"
    advice = "" if state == "ok" else "Set XDG_CACHE_HOME to a folder of your own"
    return Check(section=_SECTION, name="cache", state=state, found=found, advice=advice)


# --- Settings ------------------------------------------------------------------------------------


def check_settings(environment: Mapping[str, str]) -> Check:
    """Variables that change what commands do; the values of our own options are not shown."""
    shown = [f"{name}={environment[name]}" for name in _SHOWN if name in environment]
    own = sorted(name for name in environment if name.startswith("PIPELINE_"))
    found = ", ".join([*shown, *own]) or "none set"
    return Check(section=_SECTION, name="environment variables", state="ok", found=found)


def _gb(size: float) -> str:
    return f"{size / 1e9:,.1f} GB"
