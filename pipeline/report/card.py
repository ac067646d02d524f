"""The card at the top of the report: what the data set is, what the model draws, the numbers that matter."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from pipeline import __version__
from pipeline.core.errors import REPAIR
from pipeline.core.image_decode import Pixels
from pipeline.core.inventory import Folder
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import read_json_lines, read_small_file
from pipeline.report.nearest import CANDIDATES, SIDE, find_nearest
from pipeline.report.page import Section, Tile, funnel, image_tag, pairs, tiles
from pipeline.report.view import View, decode, shrink

_IMAGES = 8


@dataclass(frozen=True, kw_only=True)
class GeneratedImage:
    """The fields that the report reads from a line of `records.jsonl`."""

    prompt: str
    file: str


def card(view: View, measured: tuple[Tile, ...]) -> Iterator[Section]:
    """The numbers that matter and the funnel, then generated images; `measured` are measured times."""
    numbers = [*_data_numbers(view), *_model_numbers(view), *measured]
    if numbers:
        yield Section(
            title="At a glance",
            note=f"Made with dalle-pipeline {__version__}. Every number is from this workspace.",
            body=tiles(numbers) + funnel(list(_steps(view))),
        )
    folder = view.latest("generated")
    if folder is not None:
        yield from _generated(view, folder)


def _count(folder: Folder | None, name: str) -> int | None:
    return None if folder is None or folder.manifest is None else folder.manifest.counts.get(name)


def _detail(folder: Folder | None, *names: str) -> Any:
    value: Any = None if folder is None or folder.manifest is None else folder.manifest.details
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _data_numbers(view: View) -> Iterator[Tile]:
    dedupe = view.latest("dedupe")
    captions = _detail(dedupe, "captions", "with_images")
    for label, number in (("images", _count(dedupe, "kept")), ("captions", captions)):
        if isinstance(number, int):
            yield Tile(value=f"{number:,}", label=label)


def _model_numbers(view: View) -> Iterator[Tile]:
    codec, run = view.latest("codec"), view.latest("run")
    if is_number(psnr := _detail(codec, "psnr_db")):
        yield Tile(value=f"{psnr:.1f} dB", label="codec PSNR")
    if is_number(loss := _detail(run, "val_loss")):
        yield Tile(value=f"{loss:.3f}", label="validation loss")
    if parameters := _count(run, "parameters"):
        yield Tile(value=f"{parameters:,}", label="model parameters")


def is_number(value: object) -> bool:
    """Whether a value of a manifest or a log is a finite number."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _steps(view: View) -> Iterator[tuple[str, int]]:
    """The funnel: how many are left after each stage."""
    raw, dedupe, shards = (view.latest(name) for name in ("raw", "dedupe", "shards"))
    steps = (
        ("URLs", _count(raw, "urls")),
        ("images fetched", _count(raw, "done")),
        ("images kept", _count(dedupe, "kept")),
        ("samples in shards", _count(shards, "written")),
        ("samples for training", _count(shards, "train")),
    )
    yield from ((name, number) for name, number in steps if number is not None)


def _generated(view: View, folder: Folder) -> Iterator[Section]:
    """Generated images of different prompts beside the nearest training images."""
    drawn = list(_read_drawn(folder).items())
    found = find_nearest(view, drawn) if view.finished("dedupe") else [None] * len(drawn)
    side, items = view.config.thumbnail, []
    for (prompt, pixels), near in zip(drawn, found, strict=True):
        tag = image_tag(shrink(pixels, side), kind="jpeg", alt=f"generated: {prompt}", width=side)
        words = f"<b>{escape(prompt)}</b>"
        images = [("generated", tag)]
        if near is not None:
            images.append(("nearest", view.thumbnail(near.row, "nearest training image")))
            words += f"<br>distance {near.distance:.0f}: {escape(near.row['caption'])}"
        items.append((images, words))
    yield Section(
        title="Generated beside the nearest training image",
        note=f"The first prompts of generated/{folder.path.name}. Distance: root mean square over thumbnails "
        f"of {SIDE}×{SIDE} pixels (0 to 255), among training images with the same caption and the "
        f"{CANDIDATES} closest in mean colour.",
        body=pairs(items),
    )


def _read_drawn(folder: Folder) -> dict[str, Pixels]:
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
