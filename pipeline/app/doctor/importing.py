"""Whether packages can be imported, tried in other processes."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.app.doctor.check import one_line

_PROBE = Path(__file__).with_name("probe.py")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """The result of an import: an error in one line, or None; `missing` if there is no such module."""

    error: str | None = None
    missing: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


def try_groups(groups: Sequence[Sequence[str]], *, timeout_s: float) -> dict[str, Imported]:
    """Import each group of modules in a process of its own, all groups at the same time."""
    with ThreadPoolExecutor(max_workers=max(len(groups), 1)) as threads:
        parts = threads.map(lambda names: try_imports(names, timeout_s=timeout_s), groups)
        return {name: result for part in parts for name, result in part.items()}


def try_imports(names: Sequence[str], *, timeout_s: float) -> dict[str, Imported]:
    """Import modules in their order; after one that ends the process, the others are tried in a new one."""
    results: dict[str, Imported] = {}
    while rest := [name for name in names if name not in results]:
        found = dict(_run(rest, timeout_s))
        # Without a first result the interpreter itself failed.
        results |= found or {rest[0]: Imported(error="the interpreter did not start")}
    return results


def _run(names: Sequence[str], timeout_s: float) -> Iterator[tuple[str, Imported]]:
    """The results of one process; the module that ended it is the last."""
    output, end = _output(names, timeout_s)
    started = None
    for line in output.splitlines():
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if name := record.get("started"):
                started = str(name)
                continue
            started = None
            yield (
                str(record["name"]),
                Imported(
                    error=record["error"] and one_line(record["error"]),
                    missing=record.get("missing", False),
                    facts=record["facts"],
                ),
            )
    if started is not None:
        yield started, Imported(error=f"importing it {end}")


def _output(names: Sequence[str], timeout_s: float) -> tuple[str, str]:
    """What the process printed, and how it ended."""
    command = [sys.executable, "-P", str(_PROBE), *names]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode(), f"took longer than {timeout_s:.0f} s"
    return done.stdout.decode(errors="replace"), _describe_end(done.returncode)


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"ended Python with exit code {code}"
    try:
        return f"killed Python with {signal.Signals(-code).name}"
    except ValueError:
        return f"killed Python with signal {-code}"
