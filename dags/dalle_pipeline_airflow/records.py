"""The records of a workspace: the commands' `runs.jsonl`, the DAGs' `alerts.jsonl`. Needs no Airflow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

Entry = Mapping[str, Any]
ALERTS = "alerts.jsonl"
# Reasons in the scrape's report for images that never existed, or that opted out.
_NOT_THERE = ("http_404", "http_410", "robots", "x_robots")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file with one per line; torn and damaged lines, or no file, yield none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            found.append(value)
    return found


def scrapes(workspace: Path) -> list[Entry]:
    """Each scrape with a record of its work, the oldest first: when it `started`, and `by` whom.

    A plan fetches nothing: it is listed only if the page has changed, with nothing but that.
    """
    return [
        {
            "started": str(run.get("started", "")),
            "by": run.get("by"),
            "counts": stage.get("counts", {}),
            **stage["did"],
        }
        for run in read_lines(workspace / "runs.jsonl")
        for stage in _tables(run.get("stages"))
        if stage.get("stage") == "scrape" and isinstance(stage.get("did"), dict)
    ]


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def run_label(dag: str, run: str) -> str:
    """The name of a DAG run as initiator of a command in `runs.jsonl`."""
    return f"{dag} {run}"


def of_run(entries: Sequence[Entry], label: str) -> tuple[list[Entry], list[Entry]]:
    """The entries started by the DAG run `label`, at any time, and those before the first of them."""
    own = [number for number, entry in enumerate(entries) if entry["by"] == label]
    return [entries[number] for number in own], list(entries[: own[0]] if own else entries)


def measure(entries: Sequence[Entry], earlier: Sequence[Entry]) -> dict[str, float]:
    """Of one DAG run's scrapes: `good_share` of the requested and `different_share` of the existing images.

    An image that is gone counts as not good; one that never existed doesn't count. The changes are only known
    if there are earlier scrapes of the same extent: with a limit, or with sections that are new to the
    workspace, there is nothing to compare with and no `different_share`.
    """
    # A failure in one try of a part may have succeeded in the next: the last one has the final result.
    last = {tuple(e.get("sections", ())): e for e in entries if "stored" in e}.values()
    good = _sum(last, "stored", "unchanged")
    asked = good + _sum(last, "absent", "gone") + sum(_bad(e.get("failures", {})) for e in last)
    found = {"good_share": good / asked if asked else 1.0}
    before = _done(entries) - _sum(entries, "stored") + _sum(entries, "changed")
    if before > 0 and _is_comparable(entries, earlier):
        found["different_share"] = _sum(entries, "stored", "absent", "gone") / before
    return found


def _sum(entries: Iterable[Entry], *names: str) -> int:
    return sum(entry.get(name, 0) for entry in entries for name in names)


def page_changes(entries: Sequence[Entry]) -> list[str]:
    """The changes of the page, in sentences."""
    pages = [entry["page"] for entry in entries if isinstance(entry.get("page"), dict)]
    said = [
        f"The page {words}: {', '.join(page[key])}"
        for page in pages
        for key, words in (
            ("sections_added", "has new sections"),
            ("sections_removed", "lost sections"),
        )
        if page.get(key)
    ]
    return said + [
        f"The page's section {name} has {now} captions, had {before}"
        for page in pages
        for name, (before, now) in page.get("captions", {}).items()
    ]


def days_since_fresh(entries: Sequence[Entry], now: datetime) -> float | None:
    """Days since an image was fetched or confirmed; since the first scrape if none ever was."""
    fresh = [e for e in entries if e.get("stored", 0) + e.get("unchanged", 0) > 0]
    times = [str(e["started"]) for e in (fresh[-1:] or entries[:1])]
    if not times:
        return None
    then = datetime.fromisoformat(times[0].replace("Z", "+00:00"))
    return (now - then).total_seconds() / 86400


def _bad(failures: Mapping[str, int]) -> int:
    return sum(n for why, n in failures.items() if not why.startswith(_NOT_THERE))


def _done(entries: Sequence[Entry]) -> int:
    """Images in the raw store after these."""
    counted = [entry["counts"].get("done", 0) for entry in entries if entry["counts"]]
    return int(counted[-1]) if counted else 0


def _is_comparable(entries: Sequence[Entry], earlier: Sequence[Entry]) -> bool:
    """Whether none had a limit, and earlier ones without a limit had all of their sections."""
    fetched = [entry for entry in entries if "stored" in entry]
    if any(entry.get("limit") for entry in fetched):
        return False
    whole = [entry for entry in earlier if not entry.get("limit") and "stored" in entry]
    if any(not entry.get("sections") for entry in whole):
        return True
    known = {name for entry in whole for name in entry["sections"]}
    return all(entry.get("sections") and set(entry["sections"]) <= known for entry in fetched)


# --- Alerts --------------------------------------------------------------------------------------


def keep_alert(workspace: Path, alert: Mapping[str, str]) -> None:
    """Append an alert to those of the workspace. Raises OSError, as on a full disk."""
    with (workspace / ALERTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(alert, ensure_ascii=False) + "\n")


def alerts_of(workspace: Path, run: str) -> list[dict[str, Any]]:
    """The alerts of one DAG run."""
    return [alert for alert in read_lines(workspace / ALERTS) if alert.get("run") == run]
