"""The card at the top of the report: what the data set is, what the model draws, the numbers that matter."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.core.contracts import REJECT_REASONS, URL_STATES
from pipeline.core.errors import REPAIR, ContractError
from pipeline.core.image_decode import Pixels
from pipeline.core.inventory import Folder
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import read_json_lines, read_small_file
from pipeline.core.version import __version__
from pipeline.core.workspace import read_marker
from pipeline.report.curves import points_of, read_log
from pipeline.report.nearest import CANDIDATES, SIDE, find_nearest
from pipeline.report.page import Section, Step, Tile, funnel, pairs, shown, tiles
from pipeline.report.samples import SampleBook
from pipeline.report.training import chosen_runs
from pipeline.report.values import as_number, count_of, detail_of
from pipeline.report.view import View, decode, thumbnail

_IMAGES = 8
_INPUTS = 3
_RUNS = "runs.jsonl"


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """The fields that the report reads from a line of `records.jsonl`."""

    prompt: str
    file: str


def card(view: View, book: SampleBook) -> Iterator[Section]:
    """One screen: numbers and the funnel beside generated images."""
    numbers = [*_data_numbers(view), *_model_numbers(view), *_work(view)]
    steps = funnel(list(_steps(view)))
    left = tiles(numbers) + steps if numbers else ""
    folder = view.latest("generated")
    right = "" if folder is None else _generated(view, book, folder)
    body = f'<div class="glance"><div>{left}</div><div>{right}</div></div>' if right else left
    yield Section(title="", note=_origin(view), body=body)


def _origin(view: View) -> str:
    """The source, when and with which command the page was made."""
    source = shown_source(view.workspace.root)
    day = datetime.now(UTC).date().isoformat()
    return f"Source: {source}. Written {day} by dalle-pipeline {__version__}: {command(view)}"


def shown_source(root: Path) -> str:
    """The source of a workspace, with what it was given to read."""
    marker = read_marker(root)
    kept = marker.get("options", {}).get("scrape", {}).get("")
    inputs = kept.get("inputs") if isinstance(kept, dict) else None
    if not isinstance(inputs, list):
        inputs = []
    more = f" and {len(inputs) - _INPUTS:,} more" if len(inputs) > _INPUTS else ""
    return f"{marker['source']} {', '.join(map(str, inputs[:_INPUTS]))}".strip() + more


def command(view: View) -> str:
    """The command that makes this page, with the workspace by its name alone."""
    words = ["pipeline", "report", "--workspace", view.workspace.root.absolute().name]
    for field in fields(view.config):
        value = getattr(view.config, field.name)
        if field.name == "workspace" or value == field.default:
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [f"--{field.name.replace('_', '-')}", str(each)]
    return shlex.join(words)


def _data_numbers(view: View) -> Iterator[Tile]:
    raw, dedupe = view.latest("raw"), view.latest("dedupe")
    counted = (
        ("rows", count_of(raw, "urls")),
        ("images", count_of(dedupe, "kept")),
        ("captions", detail_of(dedupe, "captions", "with_images")),
    )
    for label, number in counted:
        if isinstance(number, int):
            yield Tile(value=f"{number:,}", label=label)


def _model_numbers(view: View) -> Iterator[Tile]:
    codec = view.latest("codec")
    for name, label, form in (
        ("psnr_db", "codec PSNR", "{:.1f} dB"),
        ("ssim", "codec SSIM", "{:.3f}"),
    ):
        if (value := as_number(detail_of(codec, name))) is not None:
            yield Tile(value=form.format(value), label=label)
    runs = [folder for folder in chosen_runs(view) if folder.manifest is not None]
    if runs:
        yield from _run_numbers(runs[0])


def _run_numbers(run: Folder) -> Iterator[Tile]:
    if (loss := as_number(detail_of(run, "val_loss"))) is not None:
        yield Tile(value=f"{loss:.3f}", label="validation loss")
        best = min(
            points_of(read_log(run.path), "val_loss"), key=lambda p: (p[1], p[0]), default=None
        )
        if best is not None and best[1] < loss:
            yield Tile(value=f"{best[1]:.3f}", label=f"its best, at step {best[0]:,.0f}")
    if parameters := count_of(run, "parameters"):
        yield Tile(value=f"{parameters:,}", label="model parameters")


def _work(view: View) -> Iterator[Tile]:
    """How long the stages took in all, from the log of runs, and the machine that wrote the page."""
    try:
        runs = read_json_lines(view.workspace.root / _RUNS, dict[str, Any], remedy=REPAIR)
    except ContractError:
        runs = []  # a line torn by a crash: `pipeline status` reads around it
    stages = [
        stage for run in runs for stage in run.get("stages", ()) if stage.get("stage") != "report"
    ]
    if seconds := sum(as_number(stage.get("seconds")) or 0.0 for stage in stages):
        yield Tile(value=_hours(seconds), label="work in all stages, retries included")
    yield Tile(
        value=f"{os.cpu_count()} × {platform.machine()}", label="CPUs where this page was written"
    )


def _hours(seconds: float) -> str:
    return (
        f"{seconds / 3600:,.1f} h"
        if seconds >= 3600
        else f"{seconds / 60:.0f} min"
        if seconds >= 90
        else f"{seconds:.0f} s"
    )


def _steps(view: View) -> Iterator[Step]:
    """The funnel: how many are left after each stage, and why the others are not."""
    raw, dedupe, shards = (view.latest(name) for name in ("raw", "dedupe", "shards"))
    steps = (
        ("rows", count_of(raw, "urls"), ()),
        (
            "with an image",
            count_of(raw, "done"),
            _lost(raw, [s for s in URL_STATES if s != "done"]),
        ),
        ("images kept", count_of(dedupe, "kept"), _lost(dedupe, REJECT_REASONS[1:])),
        ("samples in shards", count_of(shards, "written"), _lost(shards, ("failed", "rejected"))),
        (
            "samples for training",
            count_of(shards, "train"),
            _lost(shards, ("val",), {"val": "for validation"}),
        ),
    )
    for name, left, lost in steps:
        if left is not None:
            yield Step(name=name, left=left, lost=tuple(lost))


def _lost(
    folder: Folder | None, names: Sequence[str], words: dict[str, str] | None = None
) -> list[tuple[str, int]]:
    return [((words or {}).get(name, name), count_of(folder, name) or 0) for name in names]


def _generated(view: View, book: SampleBook, folder: Folder) -> str:
    """Generated images of different prompts beside the nearest training images."""
    drawn = list(read_drawn(folder).items())
    found = find_nearest(view, drawn) if view.finished("dedupe") else [None] * len(drawn)
    side, items = view.config.thumbnail, []
    for (prompt, pixels), near in zip(drawn, found, strict=True):
        words = f'<b class="clamp" dir="auto">{shown(prompt)}</b>'
        images = [("generated", thumbnail(pixels, side, f"generated: {prompt}"))]
        if near is not None:
            images.append(("nearest", book.button(near.row, "nearest training image")))
            words += (
                f'<span class="clamp">distance {near.distance:.0f}: '
                f"<bdi>{shown(near.row['caption'])}</bdi></span>"
            )
        items.append((images, words))
    note = (
        f"The first prompts of {folder.name}, each beside the nearest training image: root mean square "
        f"over thumbnails of {SIDE}×{SIDE} pixels (0 to 255), among images with the same caption and the "
        f"{CANDIDATES} closest in mean colour."
    )
    return f'{pairs(items)}<p class="note">{shown(note)}</p>'


def read_drawn(folder: Folder) -> dict[str, Pixels]:
    """The first image of each of the first prompts."""
    records = folder.path / "records.jsonl"
    drawn: dict[str, Pixels] = {}
    for record in read_json_lines(records, GeneratedImage, remedy=REPAIR):
        if len(drawn) == _IMAGES:
            break
        if record.prompt not in drawn:
            path = path_inside(folder.path, record.file, source=records)
            drawn[record.prompt] = decode(read_small_file(path))
    return drawn
