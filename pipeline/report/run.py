"""Workspace → `report.html`: an overview for people, after the stages have run.

Reads the manifests, the tables of dedupe, raw images, training logs and generated images; parts that don't
exist yet are omitted. The page embeds its images and needs no network.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.core.config import resolved
from pipeline.core.contracts import MEASUREMENTS, StageReport
from pipeline.core.errors import REPAIR, PipelineError
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.kept_images import (
    STORED_IMAGE_COLUMNS,
)
from pipeline.core.outputs import write_output
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file, read_json_lines, read_small_file
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import MANIFEST_NAME, sha256_bytes, sha256_file
from pipeline.core.workspace import Workspace, read_marker
from pipeline.report.card import GeneratedImage, card
from pipeline.report.config import ReportConfig
from pipeline.report.numbers import dedupe_sections, scrape_sections, state_rows
from pipeline.report.page import Section, Tile, figures, html_table, image_tag, page, tiles, wall
from pipeline.report.plots import line_plot
from pipeline.report.view import View, decode, shrink

logger = logging.getLogger(__name__)

PLOT_POINTS = 400
PAGE_NAME = "report.html"
PAGE_VERSION = 7  # raised when the page of an unchanged workspace would look different


def run(config: ReportConfig, progress: Progress = no_progress) -> StageReport:
    """Write `report.html` into the workspace."""
    workspace = Workspace(config.workspace)
    view = _look(config)
    made_from, target = _digest(view), workspace.root / PAGE_NAME
    if _shows(target, made_from):
        return StageReport(stage="report", outcome="unchanged", outputs=(str(target),))
    sections: list[Section] = []
    makers: Mapping[str, Callable[[View], Iterator[Section]]] = {
        "Card": _card,
        "Scraped and kept": _counted,
        "Rejected images": _rejections,
        "Scraped images": _scraped_wall,
        "Codecs": _codecs,
        "Losses": _losses,
        "Generated": _generations,
        "Stages": _stages,
        "Measured": _numbers,
    }
    for number, (title, maker) in enumerate(makers.items(), 1):
        sections += _guarded(title, maker(view))
        progress(number, len(makers))
    source = str(read_marker(workspace.root)["source"])
    html = page(
        f"{source}: dataset, model and images",
        "Written by pipeline report. Every number comes from a manifest or a table of this workspace.",
        sections,
        made_from=made_from,
    )
    with write_output(target, kind="HTML page", magic=b"") as output:
        output.file.write(html.encode(errors="xmlcharrefreplace"))
    return StageReport(
        stage="report", outcome="done", counts={"sections": len(sections)}, outputs=(str(target),)
    )


def _guarded(title: str, sections: Iterator[Section]) -> Iterator[Section]:
    """The sections up to the first that can't be made, then the error, so that the rest is still shown."""
    try:
        yield from sections
    except (PipelineError, OSError) as error:
        logger.warning("The report lacks the part %r: %s", title, error)
        body = f"<p>{escape(str(error))}</p>"
        yield Section(title=title, note="This part can't be shown.", body=body)


def why_run(config: ReportConfig, _manifest: None) -> str | None:
    """Whether the page shows an older state of the workspace."""
    view = _look(config)
    current = _shows(view.workspace.root / PAGE_NAME, _digest(view))
    return None if current else "report.html is outdated"


def _look(config: ReportConfig) -> View:
    workspace = Workspace(config.workspace)
    return View(workspace=workspace, folders=find_folders(workspace.root), config=config)


def _digest(view: View) -> str:
    """Hash of everything that the page is made from: options, manifests, logs, measurements."""
    paths = [view.workspace.root / MEASUREMENTS]
    for folder in view.folders:
        paths += [folder.path / MANIFEST_NAME, folder.path / "log.jsonl"]
    hashes = [
        (str(p.relative_to(view.workspace.root)), sha256_file(p)) for p in paths if p.is_file()
    ]
    states = [(f.name, f.problem is None, f.stale, f.outgrown) for f in view.folders]
    return sha256_bytes(
        repr((PAGE_VERSION, __version__, resolved(view.config), hashes, states)).encode()
    )


def _shows(page_file: Path, made_from: str) -> bool:
    try:
        with page_file.open("rb") as file:
            return made_from.encode() in file.read(1024)
    except OSError:
        return False


def _measured(view: View) -> tuple[Tile, ...]:
    path = view.workspace.root / MEASUREMENTS
    return parse_json_file(path, tuple[Tile, ...], remedy=REPAIR) if os.path.lexists(path) else ()


def _card(view: View) -> Iterator[Section]:
    total = tuple(tile for tile in _measured(view) if tile.label == "in the stages")
    yield from card(view, total)


def _numbers(view: View) -> Iterator[Section]:
    if measured := _measured(view):
        yield Section(title="Measured", note="Measurements of this run.", body=tiles(measured))


def _stages(view: View) -> Iterator[Section]:
    yield Section(
        title="Stages",
        note="One folder per stage. Rows in = kept + rejected + failed, as pipeline verify checks.",
        body=html_table(("folder", "state", "counts", "size"), state_rows(view.folders)),
    )


def _counted(view: View) -> Iterator[Section]:
    for contract, make_sections in (("raw", scrape_sections), ("dedupe", dedupe_sections)):
        for folder in view.finished(contract):
            assert folder.manifest is not None
            yield from make_sections(folder.manifest, str(folder.path / MANIFEST_NAME))


def _rejections(view: View) -> Iterator[Section]:
    if not view.finished("dedupe"):
        return
    table = view.read_table("rejected/", ["reason", "section"])
    counts = table.group_by(["reason", "section"]).aggregate([([], "count_all")])
    order = [("reason", "ascending"), ("section", "ascending")]
    rows = [
        (row["reason"], row["section"], row["count_all"])
        for row in counts.sort_by(order).to_pylist()
    ]
    if not rows:
        return
    yield Section(
        title="Rejected images",
        note="Rows of dedupe/rejected by reason and section.",
        body=html_table(("reason", "section", "images"), rows),
    )


def _scraped_wall(view: View) -> Iterator[Section]:
    import pyarrow.compute as pc

    if not view.finished("dedupe"):
        return
    columns = ["caption", "section", "rank", *STORED_IMAGE_COLUMNS]
    rank = pc.field("rank")
    wanted = (rank < view.config.wall_ranks) | rank.is_null()
    kept = view.read_table("kept/", columns, wanted)
    captions = kept.group_by(["section", "caption"]).aggregate([]).to_pylist()
    captions.sort(key=lambda row: (row["section"], row["caption"]))
    rows, has_ranks = [], False
    for row in _spread(captions, view.config.wall_captions):
        same = (pc.field("caption") == row["caption"]) & (pc.field("section") == row["section"])
        images = kept.filter(same).sort_by("rank").to_pylist()
        ranked = sum(image["rank"] is not None for image in images)
        has_ranks |= ranked > 0
        images = images[: max(ranked, view.config.wall_ranks)]
        rows.append((row["caption"], [_thumbnail(view, image) for image in images]))
    single = not has_ranks and all(len(images) == 1 for _, images in rows)
    yield Section(
        title="Scraped images",
        note="Some of the captions, from all sections, with their kept images. Ranked images begin with the "
        "best.",
        body=figures(rows) if single else wall(rows),
    )


def _spread(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """At most `number` of the sorted rows: as many from each section as possible, at even distances."""
    by_section: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_section.setdefault(row["section"], []).append(row)
    turns = itertools.zip_longest(*by_section.values())
    in_turn = [row for turn in turns for row in turn if row is not None]
    shares = Counter(row["section"] for row in in_turn[:number])
    return [
        row for section, share in shares.items() for row in _thin_out(by_section[section], share)
    ]


def _thin_out(rows: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    return [rows[turn * len(rows) // number] for turn in range(number)]


def _thumbnail(view: View, row: Mapping[str, Any]) -> str:
    alt = str(row["caption"]) if row["rank"] is None else f"rank {row['rank']}"
    return view.thumbnail(row, alt)


def _codecs(view: View) -> Iterator[Section]:
    for folder in view.finished("codec"):
        yield from _guarded(f"Codec {folder.path.name}", _codec(folder))


def _codec(folder: Folder) -> Iterator[Section]:
    sheet = folder.path / "reconstructions.png"
    if not sheet.exists():
        return
    assert folder.manifest is not None
    facts = ", ".join(_facts(folder.manifest.details))
    tag = image_tag(read_small_file(sheet), kind="png", alt="reconstructions")
    yield Section(
        title=f"Codec {folder.path.name}",
        note="Originals above, their reconstructions from codes below.",
        body=figures([(facts, [tag])]),
    )


def _facts(details: Mapping[str, Any]) -> Iterator[str]:
    for name, value in details.items():
        if isinstance(value, float):
            yield f"{name} {value:.4g}"
        elif isinstance(value, (int, str)) and len(str(value)) < 20:
            yield f"{name} {value}"


def _losses(view: View) -> Iterator[Section]:
    for folder in view.folders:
        if folder.contract in ("run", "codec"):
            yield from _guarded(f"Losses of {folder.name}", _plot(folder))


def _plot(folder: Folder) -> Iterator[Section]:
    series = _series(folder.path / "log.jsonl")
    if plot := line_plot(series, x_label="step", y_label="loss"):
        yield Section(title=f"Losses of {folder.name}", note="From its log.jsonl.", body=plot)


def _series(log: Path) -> dict[str, list[tuple[float, float]]]:
    """Every value of the log with `loss` in its name, by step, thinned to what a plot can show."""
    series: dict[str, list[tuple[float, float]]] = {}
    for record in read_json_lines(log, dict[str, Any], remedy=REPAIR):
        step = _number(record.get("step"))
        losses = {name: _number(value) for name, value in record.items() if "loss" in name}
        for name, value in losses.items():
            if step is not None and value is not None:
                series.setdefault(name, []).append((step, value))
    return {name: points[:: max(1, len(points) // PLOT_POINTS)] for name, points in series.items()}


def _number(value: object) -> float | None:
    """The value as a float if it is a number that a plot can show."""
    is_number = isinstance(value, (int, float)) and abs(value) <= sys.float_info.max
    return float(value) if is_number else None  # type: ignore[arg-type]


def _generations(view: View) -> Iterator[Section]:
    for folder in view.finished("generated"):
        yield from _guarded(f"Generated: {folder.path.name}", _drawn(folder, view.config.thumbnail))


def _drawn(folder: Folder, side: int) -> Iterator[Section]:
    prompts: dict[str, list[str]] = {}
    records = folder.path / "records.jsonl"
    for record in read_json_lines(records, GeneratedImage, remedy=REPAIR):
        data = read_small_file(path_inside(folder.path, record.file, source=records))
        tag = image_tag(shrink(decode(data), side), kind="jpeg", alt="generated", width=side)
        prompts.setdefault(record.prompt, []).append(tag)
    yield Section(
        title=f"Generated: {folder.path.name}",
        note="Images that the model generated from the prompts alone.",
        body=figures(prompts.items()),
    )
