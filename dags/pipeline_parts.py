"""Parts of a scrape: which sections go together, how well it went; and where training goes on.

Needs no Airflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

# Words of the scrape for images that were never there, or that asked not to be taken.
_NOT_THERE = ("http_404", "http_410", "robots", "x_robots")


def group_sections(sections: Mapping[str, Mapping[str, int]], parts: int) -> list[list[str]]:
    """At most `parts` groups of the sections that have captions, of about the same size."""
    groups: list[list[str]] = [[] for _ in range(parts)]
    sizes = [0] * parts
    found = [(facts["captions"], name) for name, facts in sections.items() if facts["captions"]]
    for captions, name in sorted(found, reverse=True):
        smallest = sizes.index(min(sizes))
        groups[smallest].append(name)
        sizes[smallest] += captions
    return [sorted(group) for group in groups if group]


def measure_fetches(reports: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Over the parts of a scrape: `good_share` of what was asked for, `different_share` of what was there.

    An image that was there and is no more counts as not good, one that never was counts not at all.
    A first crawl has nothing that it could differ from.
    """
    good = bad = stored = lost = changed = done = 0
    for report in reports:
        details, done = report["details"], max(done, report["counts"].get("done", 0))
        stored += details.get("stored", 0)
        changed += details.get("changed", 0)
        lost += details.get("absent", 0) + details.get("gone", 0)
        good += details.get("stored", 0) + details.get("unchanged", 0)
        failures = details.get("failures", {})
        bad += sum(n for why, n in failures.items() if not why.startswith(_NOT_THERE))
    before = done - (stored - changed)
    asked = good + bad + lost
    return {
        "good_share": good / asked if asked else 1.0,
        "different_share": (stored + lost) / before if before > 0 else 0.0,
    }


def train_arguments(workspace: str, name: str, stamp: str) -> list[str]:
    """Name the run NAME-STAMP and let it begin where the last finished one of that name ended.

    The same stamp gives the same arguments, so that a retry goes on with its own run.
    """
    own = f"{name}-{stamp}"
    runs = sorted(Path(workspace, "runs").glob(f"{name}-*/manifest.json"))
    before = [path.parent for path in runs if path.parent.name < own]
    resume = ["--resume-from", str(before[-1])] if before else []  # at its last whole checkpoint
    return ["--name", own, *resume]
