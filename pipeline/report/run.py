"""Workspace → `report.html`: what a person looks at after the stages have run.

Reads the manifests, the kept table, raw images, training logs and generated pictures; every part that is
not there yet is left out. The page carries its pictures and needs no network.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.config import resolved
from pipeline.contracts import MEASUREMENTS, StageReport
from pipeline.inventory import Folder, find_folders
from pipeline.kept_images import PLACE_COLUMNS, place_of, read_image
from pipeline.progress import Progress, no_progress
from pipeline.raster import decode_image
from pipeline.report.config import ReportConfig
from pipeline.report.numbers import dedupe_sections, scrape_sections, state_rows
from pipeline.report.page import Section, Tile, figures, html_table, image_tag, page, tiles, wall
from pipeline.report.plots import line_plot
from pipeline.storage import MANIFEST_NAME, sha256_bytes, sha256_file, write_bytes
from pipeline.textfiles import split_lines
from pipeline.workspace import Workspace

PLOT_POINTS = 400
PAGE_NAME = "report.html"
PAGE_VERSION = 3  # raised when the same workspace comes to look otherwise


@dataclass(frozen=True, kw_only=True)
class _View:
    """What every part of the page is made from."""

    workspace: Workspace
    folders: list[Folder]
    config: ReportConfig


def run(config: ReportConfig, progress: Progress = no_progress) -> StageReport:
    """Write `report.html` into the workspace."""
    workspace = Workspace(config.workspace)
    view = _look(config)
    made_from, target = _digest(view), workspace.root / PAGE_NAME
    if _shows(target, made_from):
        return StageReport(stage="report", outcome="unchanged", outputs=(str(target),))
    sections: list[Section] = []
    makers = (
        _numbers,
        _stages,
        _counted,
        _rejections,
        _scraped_wall,
        _codecs,
        _losses,
        _generations,
    )
    for number, maker in enumerate(makers, 1):
        sections += maker(view)
        progress(number, len(makers))
    source = json.loads(workspace.marker.read_bytes())["source"]
    html = page(
        f"{source}: from URL to pictures",
        "Written by pipeline report. Every number comes from a manifest or a table of this workspace.",
        sections,
        made_from=made_from,
    )
    write_bytes(target, html.encode())
    return StageReport(
        stage="report", outcome="done", counts={"sections": len(sections)}, outputs=(str(target),)
    )


def is_current(config: ReportConfig) -> bool:
    """Whether the page shows what stands in the workspace now."""
    view = _look(config)
    return _shows(view.workspace.root / PAGE_NAME, _digest(view))


def _look(config: ReportConfig) -> _View:
    workspace = Workspace(config.workspace)
    return _View(workspace=workspace, folders=find_folders(workspace.root), config=config)


def _digest(view: _View) -> str:
    """Hash of all that the page is made from: options, manifests, logs, measurements."""
    paths = [view.workspace.root / MEASUREMENTS]
    for folder in view.folders:
        paths += [folder.path / MANIFEST_NAME, folder.path / "log.jsonl"]
    hashes = [
        (str(p.relative_to(view.workspace.root)), sha256_file(p)) for p in paths if p.exists()
    ]
    states = [(f.name, f.problem is None, f.stale, f.outgrown) for f in view.folders]
    return sha256_bytes(repr((PAGE_VERSION, resolved(view.config), hashes, states)).encode())


def _shows(page_file: Path, made_from: str) -> bool:
    try:
        with page_file.open("rb") as file:
            return made_from.encode() in file.read(1024)
    except FileNotFoundError:
        return False


def _numbers(view: _View) -> Iterator[Section]:
    path = view.workspace.root / MEASUREMENTS
    if not path.exists():
        return
    measured = [
        Tile(value=item["value"], label=item["label"]) for item in json.loads(path.read_bytes())
    ]
    yield Section(title="Measured", note="What this run measured of itself.", body=tiles(measured))


def _stages(view: _View) -> Iterator[Section]:
    yield Section(
        title="Stages",
        note="A folder a stage; rows in = kept + rejected + failed, proved by pipeline verify.",
        body=html_table(("folder", "state", "counts", "size"), state_rows(view.folders)),
    )


def _counted(view: _View) -> Iterator[Section]:
    for contract, tell in (("raw", scrape_sections), ("dedupe", dedupe_sections)):
        for folder in _finished(view.folders, contract):
            assert folder.manifest is not None
            yield from tell(folder.manifest)


def _rejections(view: _View) -> Iterator[Section]:
    import pyarrow.parquet as pq

    if not _finished(view.folders, "dedupe"):
        return
    table = pq.read_table(view.workspace.dedupe / "rejected", columns=["reason", "section"])
    counts = table.group_by(["reason", "section"]).aggregate([([], "count_all")])
    order = [("reason", "ascending"), ("section", "ascending")]
    rows = [
        (row["reason"], row["section"], row["count_all"])
        for row in counts.sort_by(order).to_pylist()
    ]
    if not rows:
        return
    yield Section(
        title="Not used, and why",
        note="Rows of dedupe/rejected by reason and section.",
        body=html_table(("reason", "section", "images"), rows),
    )


def _scraped_wall(view: _View) -> Iterator[Section]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not _finished(view.folders, "dedupe"):
        return
    columns = ["caption", "section", "rank", *PLACE_COLUMNS]
    kept = pq.read_table(
        view.workspace.dedupe / "kept",
        columns=columns,
        filters=pc.field("rank") < view.config.wall_ranks,
    )
    captions = kept.group_by(["section", "caption"]).aggregate([]).to_pylist()
    captions.sort(key=lambda row: (row["section"], row["caption"]))
    rows = []
    for row in _spread(captions, view.config.wall_captions):
        same = (pc.field("caption") == row["caption"]) & (pc.field("section") == row["section"])
        images = kept.filter(same).sort_by("rank").to_pylist()
        rows.append((row["caption"], [_thumbnail(view, image) for image in images]))
    yield Section(
        title="Scraped images",
        note="Captions as the page gives them; from the left the best by CLIP.",
        body=wall(rows),
    )


def _spread(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """At most `number` of the rows, the sections in turn."""
    by_section: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_section.setdefault(row["section"], []).append(row)
    turns = itertools.zip_longest(*by_section.values())
    chosen = [row for turn in turns for row in turn if row is not None][:number]
    return sorted(chosen, key=lambda row: (row["section"], row["caption"]))


def _thumbnail(view: _View, row: Mapping[str, Any]) -> str:
    data = read_image(view.workspace.segments, place_of(row))
    side = view.config.thumbnail
    return image_tag(_shrink(data, side), kind="jpeg", alt=f"rank {row['rank']}", width=side)


def _shrink(data: bytes, side: int) -> bytes:
    small = Image.fromarray(decode_image(data).pixels_HWC)
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
    for line in split_lines(log.read_text(encoding="utf-8")):
        record = json.loads(line)
        for name, value in record.items():
            if "loss" in name and isinstance(value, (int, float)):
                series.setdefault(name, []).append((float(record["step"]), float(value)))
    return {name: points[:: max(1, len(points) // PLOT_POINTS)] for name, points in series.items()}


def _generations(view: _View) -> Iterator[Section]:
    for folder in _finished(view.folders, "generated"):
        prompts: dict[str, list[str]] = {}
        records = (folder.path / "records.jsonl").read_text(encoding="utf-8")
        for line in split_lines(records):
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
