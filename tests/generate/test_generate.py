"""Generating images from a checkpoint, into files that record how they were made."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.core.errors import ConfigError, ModelError
from pipeline.core.storage import read_manifest, write_bytes
from pipeline.core.workspace import Workspace
from pipeline.generate.config import GenerateConfig
from pipeline.generate.run import run
from pipeline.report.config import ReportConfig
from pipeline.report.run import run as report
from tests.generate.images import hashes_by_prompt, records_of

MakeConfig = Callable[..., GenerateConfig]


def test_every_prompt_gets_its_images_and_every_image_its_record(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    report = run(make_config())
    assert report.outcome == "done"
    counts = {"images": 6, "written": 6, "outranked": 0, "failed": 0}
    assert report.counts == {**counts, "prompts": 2, "prompts_cut": 0}
    folder = workspace.generated("default")
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"{number:04d}-{index:02d}.png" for number in range(2) for index in range(3)),
        "contact.png",
        "manifest.json",
        "records.jsonl",
    ]
    for record in records_of(workspace):
        data = (folder / record["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record["sha256"]
        image = Image.open(folder / record["file"])
        assert image.size == (64, 64)
        assert image.info["prompt"] == record["prompt"]
        assert image.info["seed"] == str(record["seed"])
        assert image.info["checkpoint"] == record["checkpoint"]
    listed = {entry.path: entry.sha256 for entry in read_manifest(folder, "generated").files}
    assert listed.pop("records.jsonl")
    assert listed.pop("contact.png")
    assert listed == {record["file"]: record["sha256"] for record in records_of(workspace)}


def test_the_same_seed_draws_the_same_images_in_any_batch(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    run(make_config(name="small", batch_size=2))
    whole, small = hashes_by_prompt(workspace), hashes_by_prompt(workspace, "small")
    assert whole == small
    assert len(set(whole.values())) == 6


def test_an_image_does_not_depend_on_the_prompts_beside_it(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    run(make_config(name="alone", prompts=("a blue cube",), num_images=2))
    both, alone = hashes_by_prompt(workspace), hashes_by_prompt(workspace, "alone")
    assert alone == {key: both[key] for key in alone}


def test_another_seed_draws_other_images(workspace: Workspace, make_config: MakeConfig) -> None:
    run(make_config())
    run(make_config(name="other", seed=1))
    first, second = hashes_by_prompt(workspace), hashes_by_prompt(workspace, "other")
    assert all(first[key] != second[key] for key in first)


def test_drawing_the_likeliest_forgets_the_seed(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(top_k=1.0))
    for prompt in ("a red cube", "a blue cube"):
        drawn = {h for (p, _), h in hashes_by_prompt(workspace).items() if p == prompt}
        assert len(drawn) == 1


def test_the_same_command_again_changes_nothing(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    before = {p: p.stat().st_mtime_ns for p in workspace.generated("default").iterdir()}
    assert run(make_config(batch_size=1)).outcome == "unchanged"
    assert {p: p.stat().st_mtime_ns for p in workspace.generated("default").iterdir()} == before


def test_prompts_come_from_bars_and_files(
    workspace: Workspace, make_config: MakeConfig, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    write_bytes(file, "ein grüner Würfel\n\na red cube | a mug\n".encode())
    run(
        make_config(
            prompts=("a blue cube|a white cube ", "a teapot"), prompts_file=file, num_images=1
        )
    )
    assert [record["prompt"] for record in records_of(workspace)] == [
        "a blue cube",
        "a white cube",
        "a teapot",
        "ein grüner Würfel",
        "a red cube",
        "a mug",
    ]
    write_bytes(file, b"a red cube\n")
    assert run(make_config(prompts_file=file)).outcome == "done"


def test_a_file_of_prompts_draws_the_same_with_a_bom_and_line_ends_of_windows(
    workspace: Workspace, make_config: MakeConfig, tmp_path: Path
) -> None:
    plain, windows = tmp_path / "plain.txt", tmp_path / "windows.txt"
    text = "a red cube\na blue\u2028cube\f here\n"
    plain.write_bytes(text.encode())
    windows.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    first = run(make_config(prompts=(), prompts_file=plain))
    assert first.counts["prompts"] == 2
    assert [record["prompt"] for record in records_of(workspace)][::3] == [
        "a red cube",
        "a blue\u2028cube\f here",
    ]
    assert run(make_config(prompts=(), prompts_file=windows)).outcome == "unchanged"


def test_the_report_shows_prompts_with_any_character(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config(prompts=("a red\u2028cube\x85on \u00a0a [bold]table",), num_images=1))
    assert report(ReportConfig(workspace=workspace.root)).outcome == "done"
    page = (workspace.root / "report.html").read_text(encoding="utf-8")
    assert "a red\u2028cube\\x85on \u00a0a [bold]table" in page


def test_a_checkpoint_can_be_given_by_its_folder(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    run(make_config())
    folder = workspace.run("dalle")
    (folder / "manifest.json").unlink()
    run(make_config(name="given", checkpoint=folder / "checkpoints/step-000003"))
    assert hashes_by_prompt(workspace, "given") == hashes_by_prompt(workspace)


def test_a_missing_codec_is_named_with_those_that_are_there(
    workspace: Workspace, make_config: MakeConfig
) -> None:
    shutil.rmtree(workspace.codec("mine"))
    with pytest.raises(ModelError, match=r"trained on codes of the codec .*another \(.*third \("):
        run(make_config())


def test_another_tokenizer_is_refused(workspace: Workspace, make_config: MakeConfig) -> None:
    path = workspace.run("dalle") / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ModelError, match="trained with"):
        run(make_config())


def test_a_folder_that_is_no_checkpoint_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        run(make_config(checkpoint=tmp_path))


def test_the_contact_sheet_shows_the_images(workspace: Workspace, make_config: MakeConfig) -> None:
    run(make_config())
    sheet = Image.open(workspace.generated("default") / "contact.png").convert("RGB")
    assert sheet.height >= 2 * 128
    assert len(sheet.getcolors(1 << 24) or ()) > 10


def test_the_number_of_threads_is_the_processs_own_again_afterwards(
    make_config: MakeConfig,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        run(make_config(threads=1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
