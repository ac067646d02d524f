"""Folders of images, scraped, and what the ledger says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import StageReport
from scrapers.options import build_config
from scrapers.rawstore.ledger import Ledger
from scrapers.scrape import scrape
from tests.helpers.kept_workspace import make_png


@dataclass(frozen=True)
class Row:
    """A row of the view `items`."""

    key: str
    url: str
    section: str
    caption: str
    state: str
    reason: str | None
    segment: str | None
    offset: int | None
    bytes: int | None
    sha256: str | None
    captions: tuple[str, ...]
    extra: Mapping[str, Any] | None


def write_files(root: Path, files: Mapping[str, bytes | str | int]) -> Path:
    """Write files by relative path; a number is the image with this number."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = make_png(content) if isinstance(content, int) else content
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return root


def scrape_source(source: str, *inputs: Path | str, workspace: Path, **options: Any) -> StageReport:
    """`pipeline scrape SOURCE INPUT…`."""
    values = {"source": source, "inputs": tuple(map(str, inputs)), "workspace": workspace}
    return scrape(build_config({**values, **options}))


def rows(workspace: Path) -> dict[str, Row]:
    """The rows of the ledger by the last part of their URL."""
    ledger = Ledger(workspace / "raw" / "ledger.sqlite")
    try:
        found = list(
            ledger.query(
                "SELECT key, url, section, caption, state, reason, segment, offset, bytes, sha256, captions, "
                "extra FROM items ORDER BY url"
            )
        )
    finally:
        ledger.close()
    return {str(row[1]).rpartition("/")[2]: _row(row) for row in found}


def _row(values: tuple[Any, ...]) -> Row:
    row = dict(zip(Row.__dataclass_fields__, values, strict=True))
    row["captions"] = tuple(json.loads(row["captions"] or json.dumps([row["caption"]])))
    row["extra"] = json.loads(row["extra"] or "null")
    return Row(**row)


def differences(report: StageReport) -> str:
    """What the report says was left out."""
    return " ".join(report.details["differences"])
