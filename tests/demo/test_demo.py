"""The captions of the demo, and its metric."""

from __future__ import annotations

import io
import json
import shlex
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import typer.main
from PIL import Image

from pipeline.app.cli import app
from pipeline.app.console import Screen
from pipeline.app.next_steps import called_as
from pipeline.core.captions import read_caption
from pipeline.core.contracts import StageReport
from pipeline.dedupe.splits import draw_val
from pipeline.demo.colour import CANDIDATES, main_colour, share_generated
from pipeline.demo.demo import (
    CAPTIONS_PER_SECTION,
    COLOUR_SECTION,
    OTHER_PROMPTS,
    PRESET,
    PROMPTS,
    choose_captions,
    choose_prompts,
    next_steps,
    replica_server,
)
from pipeline.demo.replica.drawing import draw, encode_png
from pipeline.demo.replica.palette import PALETTE, colours_named
from scrapers.sources.dalleblog.captions import load_catalogue

GENERATE = typer.main.get_group(app).commands["generate"]


def test_unseen_prompts_are_never_scraped() -> None:
    scraped, unseen = choose_captions()
    assert len(scraped) == sum(CAPTIONS_PER_SECTION.values()) == len(set(scraped))
    assert len(unseen[COLOUR_SECTION]) >= PROMPTS
    assert not {caption for _, caption in scraped} & {c for some in unseen.values() for c in some}
    assert choose_captions() == (scraped, unseen)


@pytest.mark.parametrize("section", [n for n, count in CAPTIONS_PER_SECTION.items() if count > 9])
def test_captions_of_every_larger_section_are_trained_on(section: str) -> None:
    """The choice has to be independent of the split, which draws by the hash of a caption."""
    preset = tomllib.loads(PRESET.read_text())
    numbers = [
        read_caption(caption).number for name, caption in choose_captions()[0] if name == section
    ]
    in_val = draw_val(np.array(numbers, dtype=np.uint64), preset["dedupe"]["val_fraction"])
    assert in_val.mean() < 0.25


def test_prompts_of_every_kind_are_asked_and_the_first_ones_are_of_different_kinds() -> None:
    captions = {name: [f"{name} {i}" for i in range(99)] for name in CAPTIONS_PER_SECTION}
    captions["multiple_copies"] = []  # there is only one, which is scraped
    prompts = choose_prompts(captions)
    counts = Counter(prompt.partition(" ")[0] for prompt in prompts)
    others = set(CAPTIONS_PER_SECTION) - {COLOUR_SECTION, "multiple_copies"}
    assert counts == {COLOUR_SECTION: PROMPTS, **dict.fromkeys(others, OTHER_PROMPTS)}
    assert {prompt.partition(" ")[0] for prompt in prompts[:6]} == {COLOUR_SECTION, *others}
    assert len(set(prompts)) == len(prompts)


def test_the_candidate_colours_are_those_of_the_section() -> None:
    (section,) = (s for s in load_catalogue().sections if s.name == COLOUR_SECTION)
    assert sorted(section.slots["color"]) == sorted(CANDIDATES)


@pytest.mark.parametrize("colour", CANDIDATES)
def test_the_metric_finds_the_colour_of_a_drawing(colour: str) -> None:
    for medium, thing in (("mural", "pear"), ("bag of chips", "carrot"), ("t-shirt", "pumpkin")):
        caption = f"a {medium} with an image of a {colour} {thing}"
        assert main_colour(draw(caption, 3)) == colour


def test_an_image_of_another_colour_lowers_the_share(tmp_path: Path) -> None:
    prompts = [f"a mural with an image of a {colour} pear" for colour in ("blue", "pink")]
    (tmp_path / "0.png").write_bytes(encode_png(draw(prompts[0], 0)))
    out = io.BytesIO()
    Image.new("RGB", (64, 64), PALETTE["black"]).save(out, "PNG")
    (tmp_path / "1.png").write_bytes(out.getvalue())
    other = "an emoji of a baby penguin wearing a blue hat"
    asked = [*prompts, other]
    records = [{"prompt": prompt, "file": f"{i % 2}.png"} for i, prompt in enumerate(asked)]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    assert share_generated(tmp_path, prompts) == 0.5
    assert share_generated(tmp_path, asked) == 2 / 3
    assert colours_named(prompts[1]) == ("pink",)


def test_the_mock_server_runs_only_while_it_is_needed(tmp_path: Path) -> None:
    import socket

    with replica_server(tmp_path) as address:
        host, port = address.split(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((host, int(port)), timeout=5)


def test_the_next_steps_call_the_program_as_this_shell_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "my env/bin/pipeline"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "/nowhere")
    assert called_as(str(program)) == f"'{program}'"
    assert called_as(".venv/bin/pipeline") == ".venv/bin/pipeline"
    assert called_as("/x/pipeline/__main__.py") == f"{sys.executable} -m pipeline"
    monkeypatch.setenv("PATH", str(program.parent))
    assert called_as(str(program)) == "pipeline"


def test_the_demo_ends_with_the_report_and_a_command_that_is_understood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = next_steps(tmp_path / "my data/report.html", "pipeline")
    report = StageReport(stage="demo", outcome="done", outputs=("x",), next=steps)
    Screen().report(report)
    page, command = capsys.readouterr().out.splitlines()[-2:]
    assert page == f"Open the report: {tmp_path}/my data/report.html"
    words = shlex.split(command.removeprefix("Draw your own: "))
    assert words == ["pipeline", "generate", "a mural with an image of a blue pear",
                     "--name", "mine", "--workspace", f"{tmp_path}/my data"]  # fmt: skip
    options = {flag for param in GENERATE.params for flag in param.opts}
    assert {"--name", "--workspace"} <= options


def test_the_preset_exists() -> None:
    assert PRESET.exists()
