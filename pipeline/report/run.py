"""Workspace → `report.html`: what a person looks at after the stages have run.

Reads the manifests, the kept table, raw images, training logs and generated pictures; every part that is
not there yet is left out. The page carries its pictures and needs no network.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.contracts import MEASUREMENTS, StageReport
from pipeline.inventory import Folder, find_folders
from pipeline.progress import Progress, no_progress
from pipeline.report.config import ReportConfig
from pipeline.report.page import Section, Tile, figures, image_tag, page, table, tiles, wall
from pipeline.report.plots import line_plot
from pipeline.storage import Workspace, read_slice, write_bytes

PLOT_POINTS = 400


@dataclass(frozen=True, kw_only=True)
class _View:
    """What every part of the page is made from."""

    workspace: Workspace
    folders: list[Folder]
    config: ReportConfig


def run(config: ReportConfig, progress: Progress = no_progress) -> StageReport:
    """Write `report.html` into the workspace."""
    workspace = Workspace(config.workspace)
    view = _View(workspace=workspace, folders=find_folders(workspace.root), config=config)
    sections = []
    makers = (_numbers, _stages, _rejections, _scraped_wall, _codecs, _losses, _generations)
    for number, maker in enumerate(makers, 1):
        sections += maker(view)
        progress(number, len(makers))
    source = json.loads(workspace.marker.read_bytes())["source"]
    html = page(
        f"{source}: from URL to pictures",
        "Written by pipeline report. Every number comes from a manifest or a table of this workspace.",
        sections,
    )
    target = workspace.root / "report.html"
    write_bytes(target, html.encode())
    return StageReport(
        stage="report", outcome="done", counts={"sections": len(sections)}, outputs=(str(target),)
    )


def _numbers(view: _View) -> Iterator[Section]:
    path = view.workspace.root / MEASUREMENTS
    if not path.exists():
        return
    measured = [
        Tile(value=item["value"], label=item["label"]) for item in json.loads(path.read_bytes())
    ]
    yield Section(title="Measured", note="What this run measured of itself.", body=tiles(measured))


def _stages(view: _View) -> Iterator[Section]:
    rows = []
    for folder in view.folders:
        if folder.manifest is None:
            rows.append((folder.name, "unfinished", "", ""))
            continue
        counts = ", ".join(
            f"{name} {count:,}" for name, count in folder.manifest.counts.items() if count
        )
        megabytes = sum(entry.bytes for entry in folder.manifest.files) / 1e6
        state = f"stale: {', '.join(folder.stale)} changed" if folder.stale else "fresh"
        rows.append((folder.name, state, counts, f"{megabytes:,.1f} MB"))
    yield Section(
        title="Stages",
        note="A folder a stage; rows in = kept + rejected + failed, proved by pipeline verify.",
        body=table(("folder", "state", "counts", "size"), rows),
    )


def _rejections(view: _View) -> Iterator[Section]:
    import pandas as pd

    if not _finished(view.folders, "dedupe"):
        return
    parts = sorted((view.workspace.dedupe / "rejected").glob("*.parquet"))
    if not parts:
        return
    columns = ["section", "reason"]
    rejected = pd.concat([pd.read_parquet(part, columns=columns) for part in parts])
    counts = rejected.value_counts(["reason", "section"]).sort_index()
    rows = [(reason, section, int(number)) for (reason, section), number in counts.items()]
    yield Section(
        title="Not used, and why",
        note="Rows of dedupe/rejected by reason and section.",
        body=table(("reason", "section", "images"), rows),
    )


def _scraped_wall(view: _View) -> Iterator[Section]:
    import pandas as pd

    if not _finished(view.folders, "dedupe"):
        return
    parts = sorted((view.workspace.dedupe / "kept").glob("*.parquet"))
    columns = ["caption", "section", "rank", "segment", "offset", "bytes"]
    kept = pd.concat([pd.read_parquet(part, columns=columns) for part in parts])
    kept = kept[kept["rank"] < view.config.wall_ranks]
    captions = kept[["section", "caption"]].drop_duplicates().sort_values(["section", "caption"])
    stride = max(1, len(captions) // view.config.wall_captions)
    chosen = captions.iloc[::stride].head(view.config.wall_captions)
    rows = []
    for section, caption in chosen.itertuples(index=False):
        images = kept[(kept["caption"] == caption) & (kept["section"] == section)].sort_values(
            "rank"
        )
        rows.append(
            (
                caption,
                [
                    _thumbnail(view.workspace, row, view.config.thumbnail)
                    for row in images.itertuples()
                ],
            )
        )
    yield Section(
        title="Scraped images",
        note="Captions as the page gives them; from the left the best by CLIP. A gap is a rejected image.",
        body=wall(rows),
    )


def _thumbnail(workspace: Workspace, row: Any, side: int) -> str:
    data = read_slice(workspace.segments / row.segment, offset=row.offset, length=row.bytes)
    return image_tag(_shrink(data, side), kind="jpeg", alt=f"rank {row.rank}", width=side)


def _shrink(data: bytes, side: int) -> bytes:
    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB")
        small.thumbnail((2 * side, 2 * side))
        out = io.BytesIO()
        small.save(out, "JPEG", quality=82)
    return out.getvalue()


def _codecs(view: _View) -> Iterator[Section]:
    for folder in _finished(view.folders, "codec"):
        picture = folder.path / "reconstructions.png"
        if not picture.exists():
            continue
        assert folder.manifest is not None
        facts = ", ".join(_facts(folder.manifest.details))
        body = figures(
            [(facts, [image_tag(picture.read_bytes(), kind="png", alt="reconstructions")])]
        )
        yield Section(
            title=f"Codec {folder.path.name}",
            note="Originals above, what the codec makes of their codes below.",
            body=body,
        )


def _facts(details: Mapping[str, Any]) -> Iterator[str]:
    for name, value in details.items():
        if isinstance(value, float):
            yield f"{name} {value:.4g}"
        elif isinstance(value, (int, str)) and len(str(value)) < 20:
            yield f"{name} {value}"


def _losses(view: _View) -> Iterator[Section]:
    for folder in view.folders:
        log = folder.path / "log.jsonl"
        if folder.contract not in ("run", "codec") or not log.exists():
            continue
        series = _series(log)
        plot = line_plot(series, x_label="step", y_label="loss")
        if plot:
            yield Section(title=f"Losses of {folder.name}", note="From its log.jsonl.", body=plot)


def _series(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Every value of the log whose name holds `loss`, by step, thinned to what a plot can show."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if "loss" in name and isinstance(value, (int, float)):
                series.setdefault(name, []).append((float(record["step"]), float(value)))
    return {name: points[:: max(1, len(points) // PLOT_POINTS)] for name, points in series.items()}


def _generations(view: _View) -> Iterator[Section]:
    for folder in _finished(view.folders, "generated"):
        prompts: dict[str, list[str]] = {}
        for line in (folder.path / "records.jsonl").read_text().splitlines():
            record = json.loads(line)
            data = (folder.path / record["file"]).read_bytes()
            tag = image_tag(
                _shrink(data, view.config.thumbnail),
                kind="jpeg",
                alt="generated",
                width=view.config.thumbnail,
            )
            prompts.setdefault(record["prompt"], []).append(tag)
        yield Section(
            title=f"Generated: {folder.path.name}",
            note="Pictures that the model made from the words alone.",
            body=figures(prompts.items()),
        )


def _finished(folders: list[Folder], contract: str) -> list[Folder]:
    return [f for f in folders if f.contract == contract and f.manifest is not None]
