"""Arguments of the commands: how sections are grouped, where training resumes. Needs no Airflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_LONGEST_LABEL = 80


def page_arguments(params: Mapping[str, Any]) -> list[str]:
    """Only fetch the page."""
    return ["scrape", params["source"], "--plan", "--no-remember", *_choice(params["sections"])]


def scrape_arguments(params: Mapping[str, Any], sections: Sequence[str]) -> list[str]:
    """Scrape some sections; the workspace doesn't remember those of one part."""
    mode = [] if params["mode"] == "continue" else [f"--{params['mode']}"]
    limit = [f"--limit={params['limit']}"] if params["limit"] else []
    rate = [f"--rate={params['rate']}"] if params["rate"] else []
    return ["scrape", params["source"], "--no-remember", *mode, *limit, *rate, *_choice(sections)]


def _choice(sections: Sequence[str]) -> list[str]:
    return [f"--sections={name}" for name in sections]


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


def label_of(sections: Sequence[str]) -> str:
    """Airflow's label for the task of these sections."""
    text = ", ".join(sections)
    return text if len(text) <= _LONGEST_LABEL else f"{text[: _LONGEST_LABEL - 1]}…"


def finished_runs(workspace: Path, name: str, *, before: str) -> list[Path]:
    """The finished runs NAME-TIME before the run `before`, the oldest first."""
    found = (workspace / "runs").glob(f"{name}-*/manifest.json")
    return sorted(path.parent for path in found if path.parent.name < before)


def train_arguments(workspace: Path, name: str, own: str) -> list[str]:
    """Train the run `own`, starting from the last finished run of that name.

    The same run always yields the same arguments, so that a retry resumes its own run.
    """
    runs = finished_runs(workspace, name, before=own)
    resume = ["--resume-from", str(runs[-1])] if runs else []  # from its last complete checkpoint
    return ["train", "--name", own, *resume]


def was_trained_on(run: Path, fingerprint: str) -> bool:
    """Whether the manifest of a finished run names these shards as its input."""
    try:
        inputs = json.loads((run / "manifest.json").read_bytes())["inputs"]
        return fingerprint in inputs.values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
