"""Helpers that read what `pipeline generate` wrote to a workspace."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from PIL import Image

from pipeline.core.text_files import split_lines
from pipeline.core.workspace import Workspace


def records_of(workspace: Workspace, name: str = "default") -> list[dict[str, Any]]:
    path = workspace.generated(name) / "records.jsonl"
    return [json.loads(line) for line in split_lines(path.read_text(encoding="utf-8"))]


def hashes_by_prompt(workspace: Workspace, name: str = "default") -> dict[tuple[str, int], str]:
    """Pixels' hashes by prompt and number."""
    folder = workspace.generated(name)
    return {
        (record["prompt"], record["index"]): hashlib.sha256(
            Image.open(folder / record["file"]).tobytes()
        ).hexdigest()
        for record in records_of(workspace, name)
    }
