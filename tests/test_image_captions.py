"""Images with several captions through all stages, and workspaces whose tables are of version 1."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.core.storage import read_manifest
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command
from tests.helpers.dedupe import RawStore, photo_png
from tests.old_tables import make_old

CODEC = {"image_size": 32, "channels": 4, "code_dim": 4, "num_tokens": 32}
MODEL = {"dim": 16, "depth": 1, "heads": 1, "dim_head": 16}
TRAINING = {"steps": 2, "batch_size": 4, "warmup_steps": 1, "save_every": 1, "threads": 1}
STAGES: dict[str, dict[str, Any]] = {
    "dedupe": {"val_fraction": 0.3, "workers": 0},
    "train-tokenizer": {"vocab_size": 300},
    "train-codec": CODEC | {"steps": 2, "workers": 1},
    "encode": {"workers": 1},
    "shard": {"text_seq_len": 16},
    "train": MODEL | TRAINING | {"device": "cpu"},
    "report": {},
}
COMPUTED = ("dedupe", "encode", "shard")
IMAGES = 24
CAPTIONS = {
    f"image{n:02}": [f"a photo number {n}", f"picture {n}", ""] for n in range(0, IMAGES, 2)
}


def run(dataset: pipeline.dataset.Dataset, choice: str | None = None) -> dict[str, str]:
    """Run all stages; returns the outcome of each."""
    options = {name: dict(values) for name, values in STAGES.items()}
    if choice is not None:
        options["shard"]["caption_choice"] = choice
    return {name: dataset.run(name, options[name]).outcome for name in options}


def add_images(raw: RawStore, *, several: bool) -> Workspace:
    for number in range(IMAGES):
        key = f"image{number:02}"
        more: dict[str, Any] = {"section": "list.csv", "rank": None}
        if several and key in CAPTIONS:
            more |= {"captions": json.dumps(CAPTIONS[key]), "extra": json.dumps({"row": number})}
        raw.add(key, photo_png(number), f"a photo number {number}", **more)
    return raw.write(finished=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace of images with one caption each, its tables made old."""
    root = tmp_path_factory.mktemp("old") / "data"
    workspace = add_images(RawStore(root), several=False)
    dataset = pipeline.open(root)
    dataset.run("dedupe", STAGES["dedupe"])
    make_old(workspace)
    outcomes = run(dataset)
    assert outcomes["dedupe"] == "unchanged"
    return root


@pytest.mark.parametrize("choice", ["first", "all", "random"])
def test_several_captions_go_through_all_stages(choice: str, tmp_path: Path) -> None:
    root = tmp_path / "data"
    add_images(RawStore(root), several=True)
    dataset = pipeline.open(root)
    assert run(dataset, choice) == dict.fromkeys(STAGES, "done")
    kept = dataset.kept().set_index("key")
    assert list(kept.loc["image02"].captions) == ["a photo number 2", "picture 2"]
    assert kept.loc["image02"].extra == '{"row": 2}'
    assert set(kept.section) == {"list.csv"}
    assert kept["rank"].isna().all()
    seen: dict[str, list[str]] = {}
    for split in ("train", "val"):
        reader = dataset.shards(split=split)
        for row in range(len(reader)):
            sample = reader.sample(row)
            of_image = kept.loc[sample.image_key]
            assert of_image.split == split
            assert sample.caption == of_image.captions[sample.record.get("caption_index", 0)]
            assert dataset.image_bytes(sample.key) == dataset.image_bytes(sample.image_key)
            assert sample.record.get("extra") == json.loads(of_image.extra or "null")
            seen.setdefault(sample.image_key, []).append(sample.caption)
    assert set(seen) == set(kept.index)
    for key, captions in seen.items():
        whole = list(kept.loc[key].captions)
        expected = {"first": whole[:1], "all": whole, "random": captions}[choice]
        assert sorted(captions) == sorted(expected)
        assert len(captions) == (len(whole) if choice == "all" else 1)
    assert damaged_folders(root) == {"raw"}  # it was made by hand
    assert run(dataset, choice) == dict.fromkeys(STAGES, "unchanged")
    assert "list.csv" in (root / "report.html").read_text()


def test_old_tables_serve_every_stage_and_nothing_is_made_again(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(made, root)
    dataset = pipeline.open(root)
    assert run(dataset) == dict.fromkeys(STAGES, "unchanged")
    assert read_manifest(root / "dedupe", "dedupe").version == 1
    assert damaged_folders(root) == {"raw"}  # it was made by hand
    kept = dataset.kept()
    assert {"captions", "extra"} < set(kept.columns)
    assert [list(c) for c in kept.captions] == [[caption] for caption in kept.caption]
    assert kept.extra.isna().all()
    assert list(dataset.kept(columns=["captions"]).captions[0]) == [kept.caption[0]]
    assert dataset.rejected(columns=["captions", "extra"]).empty
    assert dataset.image(kept.key[0]).size == (64, 64)
    report = dataset.shard(caption_choice="all", name="every", text_seq_len=16)
    assert (report.counts["images"], report.counts["further_captions"]) == (IMAGES, 0)


def test_a_plan_leaves_old_tables_as_they_are(made: Path) -> None:
    result = call("run", made, "--dry-run", "--from", "dedupe")
    assert result.exit_code == 0
    actions = dict(re.findall(r"^│ ([\w-]+) +│ (\w+)", result.output, re.MULTILINE))
    assert actions["dedupe"] == "skip", result.output
    assert "options have changed" not in result.output


def test_old_tables_are_replaced_once_the_ledger_has_more(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(made, root)
    workspace = add_images(RawStore(root), several=True)
    dataset = pipeline.open(root)
    shards = {p: p.read_bytes() for p in workspace.shards("default").glob("*/*.tar")}
    outcomes = {name: dataset.run(name).outcome for name in COMPUTED}
    assert read_manifest(root / "dedupe", "dedupe").version == 2
    assert {len(captions) for captions in dataset.kept().captions} == {1, 2}
    assert outcomes == dict.fromkeys(COMPUTED, "done")
    for path, data in shards.items():
        assert path.read_bytes() != data  # half of the samples have `extra` now
    assert damaged_folders(root) == {"raw"}  # it was made by hand


def damaged_folders(root: Path) -> set[str]:
    """The folders that verify calls damaged, by name."""
    result = call("verify", root, "--json", "--images", "0")
    folders = json.loads(result.stdout.splitlines()[0])["details"]["folders"]
    return {name for name, found in folders.items() if found["state"] == "damaged"}


def call(command: str, root: Path, *more: str) -> Any:
    return run_command([command, "--workspace", str(root), *more])
