"""`pipeline demo`: run and measure the whole pipeline on a small mock of the blog.

Starts the mock server (`replica`) in its own process, writes the list of captions, runs every stage with the
preset `presets/demo.toml`, generates images for prompts seen and not seen in training (colours, emoji,
blocks, cross-sections, counts), and measures how often the main colour of an image is the one that its prompt
names.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.app.next_steps import called_as
from pipeline.app.option_files import PRESETS
from pipeline.app.run_all import Call, overall_outcome, run_stage
from pipeline.app.run_log import keep_record
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import StageReport
from pipeline.core.errors import SourceError
from pipeline.core.storage import write_bytes
from pipeline.core.workspace import Workspace
from pipeline.demo.results import captions_of_split, save_measurements

PRESET = PRESETS / "demo.toml"
# The mock server's host in URLs. It is reached with --connect-to whatever its port, so that URLs, keys and
# all hashes derived from them are the same on every run.
ORIGIN = "http://dalleblog.localhost"
COLOUR_SECTION = "unusual_media"
# How many captions of each section the demo scrapes, chosen by hash.
CAPTIONS_PER_SECTION = {
    COLOUR_SECTION: 168,
    "emojis": 40,
    "relative_positions": 20,
    "multiple_attributes": 24,
    "cross_sections": 6,
    "stacking_snap": 1,
    "multiple_copies": 1,
}
PROMPTS = 36  # of the colour section, for each of seen and unseen
OTHER_PROMPTS = 3  # of each other section
# A few faults as on a real server: some ranks are missing, some files corrupt, some responses late.
REPLICA_OPTIONS = ("--missing", "0.01", "--corrupt", "0.005", "--error", "0.01", "--busy", "0.0005")


@dataclass(frozen=True, kw_only=True)
class DemoConfig(StageConfig):
    """The demo has no options except its folder (default: data/demo)."""

    source: str = option("demo", "Name of the default workspace: data/NAME.", runtime=True)


def run_demo(config: DemoConfig, call: Call) -> StageReport:
    """Run the pipeline, measure, and write the report.

    Raises the error of the first failing stage; the same command resumes there.
    """
    started = time.monotonic()
    workspace = Workspace(config.workspace).open(source="dalleblog")
    call.use_preset(PRESET)
    with keep_record(workspace.root, "pipeline demo", writes=("run",), clock=call.clock) as record:
        reports = _run_stages(workspace, dataclasses.replace(call, record=record))
        record.outcome = overall_outcome(reports)
    page = workspace.root / "report.html"
    reused = all(report.outcome == "unchanged" for report in reports.values())
    if reused:
        call.screen.say("Nothing has changed: all existing results are reused.")
    return StageReport(
        stage="demo",
        outcome="unchanged" if reused else "done",
        seconds=round(time.monotonic() - started, 3),
        outputs=(str(page),),
        details={name: report.as_dict() for name, report in reports.items()},
        next=next_steps(page, called_as()),
    )


def next_steps(page: Path, program: str) -> tuple[str, str]:
    """What to do after the demo, in two lines that can be copied."""
    prompt = "a mural with an image of a blue pear"
    folder = shlex.quote(str(page.parent))
    return (
        f"Open the report: {page.resolve()}",
        f'Draw your own: {program} generate "{prompt}" --name mine --workspace {folder}',
    )


def _run_stages(workspace: Workspace, call: Call) -> dict[str, StageReport]:
    root = workspace.root
    scraped, unseen = choose_captions()
    write_bytes(root / "captions.txt", "".join(f"{s}\t{c}\n" for s, c in scraped).encode())
    reports: dict[str, StageReport] = {}

    def run(stage: str, label: str = "", **overrides: Any) -> None:
        reports[label or stage] = run_stage(stage, call, {"workspace": root, **overrides})

    with replica_server(root) as host_port:
        run(
            "scrape",
            source="dalleblog",
            page_url=f"{ORIGIN}/blog/dall-e/",
            connect_to=host_port,
            captions=root / "captions.txt",
        )
    for stage in ("dedupe", "train-tokenizer", "train-codec", "encode", "shard", "train"):
        run(stage)
    seen = {
        section: captions_of_split(workspace, "train", section) for section in CAPTIONS_PER_SECTION
    }
    for name, captions in (("seen", seen), ("unseen", unseen)):
        prompts = tuple(choose_prompts(captions))
        run("generate", f"generate {name}", name=name, prompts=prompts, on_change="restart")
    measure(workspace, reports, {*seen[COLOUR_SECTION], *unseen[COLOUR_SECTION]})
    run("report")
    return reports


# --- Captions ------------------------------------------------------------------------------------


def choose_captions() -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """The (section, caption) pairs to scrape, and the captions of these sections that are never scraped.

    Both are in an order determined by hash.
    """
    from scrapers.sources.dalleblog.captions import load_catalogue

    sections = {section.name: section for section in load_catalogue().sections}
    scraped: list[tuple[str, str]] = []
    unseen: dict[str, list[str]] = {}
    for name, number in CAPTIONS_PER_SECTION.items():
        captions = [forms[0] for forms in sections[name].captions()]
        captions.sort(key=_draw)
        scraped += [(name, caption) for caption in captions[:number]]
        unseen[name] = captions[number:]
    return scraped, unseen


def _draw(caption: str) -> bytes:
    """A hash independent of the split, which takes the captions with the smallest SHA-256 for val."""
    return hashlib.sha256(f"demo {caption}".encode()).digest()


def choose_prompts(captions: Mapping[str, Sequence[str]]) -> list[str]:
    """What the model is asked to draw: captions of all sections in turn."""
    chosen = [
        captions[name][: PROMPTS if name == COLOUR_SECTION else OTHER_PROMPTS]
        for name in CAPTIONS_PER_SECTION
    ]
    turns = itertools.zip_longest(*chosen)
    return [caption for turn in turns for caption in turn if caption is not None]


@contextlib.contextmanager
def replica_server(root: Path) -> Iterator[str]:
    """Run `pipeline replica` as a subprocess and yield its host:port.

    Raises SourceError if it does not start.
    """
    command = [
        sys.executable,
        "-P",  # ignore a pipeline.py in the current folder
        "-m",
        "pipeline",
        "replica",
        "--port",
        "0",
        "--json",
        *REPLICA_OPTIONS,
    ]
    with (root / "replica.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise SourceError(f"The mock server did not start; see {log.name}.")
            yield str(json.loads(line)["address"]).removeprefix("http://").partition("/")[0]
        finally:
            process.terminate()
            process.wait()


# --- Results -------------------------------------------------------------------------------------


def measure(
    workspace: Workspace, reports: Mapping[str, StageReport], colour_prompts: Collection[str]
) -> None:
    """Save this run's measurements for the report; those of stages that did nothing are kept.

    Only images of `colour_prompts` have a colour score.
    """
    from pipeline.demo.colour import share_generated, share_scraped

    numbers = [
        (
            share_generated(workspace.generated("seen"), colour_prompts),
            "colour score, seen prompts of the colour section: main colour as named, shapes not judged",
        ),
        (
            share_generated(workspace.generated("unseen"), colour_prompts),
            "colour score, prompts never seen",
        ),
        (share_scraped(workspace), "colour score of the scraped originals"),
    ]
    shown = [(f"{share:.0%}", label) for share, label in numbers]
    save_measurements(workspace, reports, shown, record_name="demo.json")
