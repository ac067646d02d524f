"""`pipeline emoji`: train a small model on the emoji of an installed font, and measure it.

Renders about 1,900 emoji into a folder of images and text files, runs every stage with the source `folder`
and the preset `presets/emoji.toml`, generates images for names seen and not seen in training, and measures
which emoji they are nearest to.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from pipeline.app.option_files import PRESETS
from pipeline.app.run_all import Call, overall_outcome, run_stage
from pipeline.app.run_log import keep_record
from pipeline.core.contracts import Split, StageReport
from pipeline.core.workspace import Workspace
from pipeline.demo.emoji.config import EmojiConfig
from pipeline.demo.emoji.font import FONTS, LISTS, find_file
from pipeline.demo.emoji.images import render_emoji
from pipeline.demo.emoji.nearest import compare_generated, compare_reconstructions, load_known
from pipeline.demo.results import Measured, captions_of_split, save_measurements

PRESET = PRESETS / "emoji.toml"
IMAGES = "emoji"  # the folder of images in the workspace
CODEC = "small"
PROMPTS = 60


def run_emoji(config: EmojiConfig, call: Call) -> StageReport:
    """Render, run the pipeline, measure, and write the report.

    Raises DependencyError if the font or the list of names is not installed, and the error of the first
    failing stage; the same command resumes there.
    """
    started = time.monotonic()
    font = find_file(config.font, FONTS, what="The emoji font", flag="--font")
    names = find_file(config.names, LISTS, what="Unicode's list of emoji", flag="--names")
    workspace = Workspace(config.workspace).open(source="folder")
    call.use_preset(PRESET)
    with keep_record(workspace.root, "pipeline emoji", writes=("run",), clock=call.clock) as record:
        with call.screen.progress("emoji") as progress:
            rendered = render_emoji(font, names, workspace.root / IMAGES, progress)
        reports = _run_stages(workspace, dataclasses.replace(call, record=record))
        record.outcome = overall_outcome(reports)
    page = workspace.root / "report.html"
    reused = not rendered and all(report.outcome == "unchanged" for report in reports.values())
    if reused:
        call.screen.say("Nothing has changed: all existing results are reused.")
    call.screen.say(f"Open the report: {page.resolve()}")
    return StageReport(
        stage="emoji",
        outcome="unchanged" if reused else "done",
        seconds=round(time.monotonic() - started, 3),
        outputs=(str(page),),
        details={name: report.as_dict() for name, report in reports.items()},
    )


def _run_stages(workspace: Workspace, call: Call) -> dict[str, StageReport]:
    root = workspace.root
    reports: dict[str, StageReport] = {}

    def run(stage: str, label: str = "", **overrides: Any) -> None:
        reports[label or stage] = run_stage(stage, call, {"workspace": root, **overrides})

    run("scrape", source="folder", inputs=(str(root / IMAGES),))
    for stage in ("dedupe", "train-tokenizer", "train-codec", "encode", "shard", "train"):
        run(stage)
    prompts_of: dict[str, Split] = {"seen": "train", "unseen": "val"}
    for name, split in prompts_of.items():
        prompts = tuple(captions_of_split(workspace, split)[:PROMPTS])
        run("generate", f"generate {name}", name=name, prompts=prompts, on_change="restart")
    save_measurements(workspace, reports, _measure(workspace), record_name="emoji.json")
    run("report")
    return reports


def _measure(workspace: Workspace) -> list[Measured]:
    """The numbers that the report begins with."""
    known = load_known(workspace)
    number = len(known.captions)
    seen, unseen = (compare_generated(known, workspace.generated(n)) for n in ("seen", "unseen"))
    codec = compare_reconstructions(known, workspace, CODEC)
    chance = known.same_section_by_chance
    return [
        (
            f"{seen.first:.0%}",
            f"of images for names seen in training are nearest to the emoji of that name, among {number:,}",
        ),
        (f"{seen.among_ten:.0%}", f"have it among the 10 nearest (by chance {10 / number:.1%})"),
        (
            f"{unseen.first:.0%}",
            "of images for names never seen are nearest to the emoji of that name",
        ),
        (f"{unseen.among_ten:.0%}", f"have it among the 10 nearest (by chance {10 / number:.1%})"),
        (
            f"{unseen.same_section:.0%}",
            f"of images for names never seen are nearest to one of the same group (by chance {chance:.0%})",
        ),
        (
            f"{codec.first:.0%}",
            "of the codec's reconstructions are nearest to their original: the most that a model can reach",
        ),
    ]
