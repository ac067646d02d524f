"""Workspace → `report.html`: an overview for people, after the stages have run or while they do.

Reads the manifests, the tables of dedupe, raw images, shards, training logs and generated images; parts that
don't exist yet say which command makes them. The page embeds its images and needs no network.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pipeline.core.config import resolved
from pipeline.core.contracts import MEASUREMENTS, StageReport
from pipeline.core.errors import REPAIR, ContractError, PipelineError
from pipeline.core.inventory import Folder, find_folders
from pipeline.core.outputs import write_output
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import parse_json_file, read_json_lines, read_small_file
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import MANIFEST_NAME, sha256_bytes, sha256_file
from pipeline.core.version import __version__
from pipeline.core.workspace import Workspace, read_marker
from pipeline.report.card import GeneratedImage, card
from pipeline.report.codecs import codec_sections
from pipeline.report.config import ReportConfig
from pipeline.report.gallery import cluster_gallery, kept_gallery, rejected_gallery
from pipeline.report.numbers import dedupe_sections, scrape_sections, state_rows
from pipeline.report.page import Part, Section, Tile, figures, html_table, page, shown, tiles
from pipeline.report.samples import SampleBook
from pipeline.report.scraping import read_requests, requests_made, scrape_over_time
from pipeline.report.statistics import statistics
from pipeline.report.training import chosen_runs, compared_runs, training_sections
from pipeline.report.view import View, decode, thumbnail

logger = logging.getLogger(__name__)

PAGE_NAME = "report.html"
PAGE_VERSION = 11  # raised when the page of an unchanged workspace would look different

Maker = Callable[[View, SampleBook], Iterator[Section]]


def run(config: ReportConfig, progress: Progress = no_progress) -> StageReport:
    """Write the page of a workspace. A part that can't be made is replaced by its error.

    Raises ConfigError for a run or a workspace to compare with that doesn't exist.
    """
    workspace = Workspace(config.workspace)
    view = _look(config)
    made_from, target = _digest(view), workspace.root / PAGE_NAME
    if _shows(target, made_from):
        return StageReport(stage="report", outcome="unchanged", outputs=(str(target),))
    book, parts = SampleBook(view=view), []
    with ThreadPoolExecutor(1, "ledger") as thread:
        view.loaded[workspace.ledger] = thread.submit(read_requests, workspace.ledger)
        for number, (title, makers) in enumerate(_PARTS.items(), 1):
            sections = tuple(
                section
                for name, make in makers.items()
                for section in _guarded(name, make(view, book))
            )
            parts.append(Part(title=title, sections=sections or (_missing(title),)))
            progress(number, len(_PARTS) + 1)
    source = str(read_marker(workspace.root)["source"])
    html = page(
        f"{source}: dataset, model and images",
        "Every number comes from a manifest, a table, a log or the ledger of this workspace.",
        parts,
        samples=book.describe(),
        made_from=made_from,
    )
    progress(len(_PARTS) + 1, len(_PARTS) + 1)
    with write_output(target, kind="HTML page", magic=b"") as output:
        output.file.write(html.encode(errors="xmlcharrefreplace"))
    counts = {"sections": sum(len(part.sections) for part in parts), "samples": len(book.rows)}
    return StageReport(stage="report", outcome="done", counts=counts, outputs=(str(target),))


def _guarded(title: str, sections: Iterator[Section]) -> Iterator[Section]:
    """The sections up to the first that can't be made, then the error, so that the rest is still shown."""
    try:
        yield from sections
    except (PipelineError, OSError) as error:
        logger.warning("The report lacks the part %r: %s", title, error)
        body = f"<p>{shown(error)}</p>"
        yield Section(title=title, note="This part can't be shown.", body=body)


def _missing(title: str) -> Section:
    """What a part without content says: the commands that make it."""
    return Section(title="", note=f"Nothing here yet. {_MADE_BY.get(title, '')}", body="")


def why_run(config: ReportConfig, _manifest: None) -> str | None:
    """Whether the page shows an older state of the workspace."""
    view = _look(config)
    current = _shows(view.workspace.root / PAGE_NAME, _digest(view))
    return None if current else "report.html is outdated"


def _look(config: ReportConfig) -> View:
    workspace = Workspace(config.workspace)
    return View(workspace=workspace, folders=find_folders(workspace.root), config=config)


def _digest(view: View) -> str:
    """Hash of all that the page is made from: options, manifests, requests, logs, grids, measurements."""
    chosen_runs(view)  # raises for a run that doesn't exist
    others = {id(other): other for _, other, _ in compared_runs(view) if other is not view}
    states = [_state_of(each) for each in (view, *others.values())]
    return sha256_bytes(repr((PAGE_VERSION, __version__, resolved(view.config), states)).encode())


def _state_of(view: View) -> Any:
    paths = [view.workspace.root / MEASUREMENTS]
    grids = []
    for folder in view.folders:
        paths += [folder.path / MANIFEST_NAME, folder.path / "log.jsonl"]
        grids += sorted(path.name for path in folder.path.glob("samples/step-*.png"))
    root = view.workspace.root
    hashes = [(str(p.relative_to(root)), sha256_file(p)) for p in paths if p.is_file()]
    with contextlib.suppress(ContractError):  # The page says it in the part that needs the ledger.
        hashes.append(("ledger", repr(requests_made(view.workspace.ledger))))
    return hashes, grids, [(f.name, f.problem is None, f.stale, f.outgrown) for f in view.folders]


def _shows(page_file: Path, made_from: str) -> bool:
    try:
        with page_file.open("rb") as file:
            return made_from.encode() in file.read(1024)
    except OSError:
        return False


def _measured(view: View) -> tuple[Tile, ...]:
    path = view.workspace.root / MEASUREMENTS
    return parse_json_file(path, tuple[Tile, ...], remedy=REPAIR) if os.path.lexists(path) else ()


def _numbers(view: View, _: SampleBook) -> Iterator[Section]:
    if measured := _measured(view):
        yield Section(title="Measured", note="Measurements of this run.", body=tiles(measured))


def _stages(view: View, _: SampleBook) -> Iterator[Section]:
    yield Section(
        title="Folders",
        note="One folder per stage. Rows in = kept + rejected + failed, as pipeline verify checks.",
        body=html_table(("folder", "state", "counts", "size"), state_rows(view.folders)),
    )


def _scraped(view: View, _: SampleBook) -> Iterator[Section]:
    for folder in view.finished("raw"):
        assert folder.manifest is not None
        yield from scrape_sections(folder.manifest, str(folder.path / MANIFEST_NAME))


def _deduped(view: View, _: SampleBook) -> Iterator[Section]:
    for folder in view.finished("dedupe"):
        assert folder.manifest is not None
        yield from dedupe_sections(folder.manifest, str(folder.path / MANIFEST_NAME))


def _generations(view: View, _: SampleBook) -> Iterator[Section]:
    for folder in view.finished("generated"):
        yield from _guarded(f"Generated: {folder.path.name}", _drawn(folder, view.config.thumbnail))


def _drawn(folder: Folder, side: int) -> Iterator[Section]:
    prompts: dict[str, list[str]] = {}
    records = folder.path / "records.jsonl"
    for record in read_json_lines(records, GeneratedImage, remedy=REPAIR):
        if record.prompt not in prompts and len(prompts) == _MOST_PROMPTS:
            break
        data = read_small_file(path_inside(folder.path, record.file, source=records))
        tag = thumbnail(decode(data), side, "generated")
        prompts.setdefault(record.prompt, []).append(tag)
    yield Section(
        title=f"Generated: {folder.path.name}",
        note=f"Images that the model generated from the prompts alone (at most {_MOST_PROMPTS} prompts).",
        body=figures(prompts.items()),
    )


_MOST_PROMPTS = 60
# The parts of the page in order, each with the makers of its sections; the names are for errors.
_PARTS: dict[str, dict[str, Maker]] = {
    "At a glance": {"Card": card},
    "Data": {
        "Kept images": kept_gallery,
        "Near duplicates": cluster_gallery,
        "Rejected images": rejected_gallery,
        "Distributions": lambda view, _: statistics(view),
        "Kept and rejected": _deduped,
    },
    "Codec": {"Codecs": codec_sections},
    "Training": {
        "Runs": lambda view, _: training_sections(view),
        "Generated": _generations,
    },
    "Scrape": {
        "Scraped": _scraped,
        "Over time": lambda view, _: scrape_over_time(view),
    },
    "Stages": {"Stages": _stages, "Measured": _numbers},
}
_MADE_BY = {
    "Data": "Run `pipeline scrape` and `pipeline dedupe`.",
    "Codec": "Run `pipeline train-codec`.",
    "Training": "Run `pipeline train`, then `pipeline generate`.",
    "Scrape": "Run `pipeline scrape`.",
}
