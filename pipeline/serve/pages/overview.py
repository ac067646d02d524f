"""The start page: what the workspace holds, and what runs now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.serve.pages.shell import page, table, text

COLUMNS = ("stage", "folder", "state", "details", "counts", "size", "last run")


def overview_page(source: str, root: str, rows: Sequence[Mapping[str, str]]) -> str:
    """The page; its table is renewed by live.js."""
    body = (
        f"<h1>{text(source)}</h1><p class='soft'><code>{text(root)}</code></p>"
        f'<h2>Stages</h2><div id="stages">{stage_table(rows)}</div>'
        '<p class="hint" id="live" role="status">This table follows the workspace while the page is open.</p>'
        "<h2>For programs</h2><ul>"
        "<li><code>POST /v1/images/generations</code>, <code>GET /v1/models</code>: OpenAI’s images API</li>"
        "<li><code>POST /dalle</code>, <code>GET /dalle-list</code>: dalle-service’s API</li>"
        "<li><code>GET /healthz</code>, <code>GET /metrics</code>: health; metrics for Prometheus</li></ul>"
    )
    return page(source, body, current="/", scripts=("live.js",))


def stage_table(rows: Sequence[Mapping[str, str]]) -> str:
    """The table of `status`."""
    cells = [
        [
            f'<span class="state-{text(row["state"]).replace(" ", "-")}">{text(row["state"])}</span>'
            if column == "state"
            else text(row[column])
            for column in COLUMNS
        ]
        for row in rows
    ]
    return table(COLUMNS, cells, label="Stages of the workspace")


def status_row(row: Any) -> dict[str, str]:
    """A row of `pipeline status` as texts."""
    counts = ", ".join(f"{k.replace('_', ' ')} {n:,}" for k, n in row.counts.items())
    took = f" ({row.seconds:,.1f} s)" if row.seconds is not None else ""
    return {
        "stage": row.stage,
        "folder": row.folder,
        "state": row.state,
        "details": row.why,
        "counts": counts,
        "size": f"{row.bytes / 1e6:,.1f} MB" if row.bytes else "",
        "last run": f"{row.last_run}{took}" if row.last_run else "",
    }
