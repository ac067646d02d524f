"""Images that stay where they are go through every stage; each says if one was moved or changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.workspace import Workspace
from pipeline.dataset import Dataset
from tests.helpers.kept_workspace import make_png
from tests.scrapers.local.folders import rows, write_files
from tests.scrapers.local.stages import Stages

NUMBERS = range(24)


def make_photos(root: Path) -> Path:
    files: dict[str, bytes | str | int] = {f"{n:02d}.png": n for n in NUMBERS}
    return write_files(root, files | {f"{n:02d}.txt": f"a disc of kind {n}" for n in NUMBERS})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Stages]:
    """A folder whose images have gone through all stages."""
    folder = tmp_path_factory.mktemp("made")
    photos, stages = make_photos(folder / "photos"), Stages(folder / "w")
    stages.make_shards("folder", photos)
    return photos, stages


def test_a_folder_goes_through_all_stages(made: tuple[Path, Stages]) -> None:
    photos, stages = made
    members = stages.make_shards("folder", photos)
    images = {data for name, data in members.items() if name.endswith(".png")}
    assert images == {make_png(n) for n in NUMBERS}
    captions = {data.decode() for name, data in members.items() if name.endswith(".txt")}
    assert captions == {f"a disc of kind {n}" for n in NUMBERS}
    assert stages.call("verify").exit_code == 0
    assert not list(Workspace(stages.root).segments.glob("*"))


def test_the_dataset_reads_the_bytes_where_they_are(made: tuple[Path, Stages]) -> None:
    _, stages = made
    row = rows(stages.root)["03.png"]
    assert Dataset(stages.root).image_bytes(row.key) == make_png(3)


def test_a_dry_run_says_that_the_files_decide(made: tuple[Path, Stages]) -> None:
    _, stages = made
    result = stages.call("run", "--until", "shard", "--dry-run")
    assert "its files may have changed" in result.output


@pytest.mark.parametrize("what", ["changed", "moved"])
@pytest.mark.parametrize("stage", ["dedupe", "train-codec", "encode", "shard"])
def test_every_stage_that_reads_originals_says_which_one_was_moved_or_changed(
    tmp_path: Path, stage: str, what: str
) -> None:
    photos, stages = make_photos(tmp_path / "photos"), Stages(tmp_path / "w")
    if stage == "dedupe":
        stages.scrape("folder", photos)
    else:
        until = {"train-codec": "dedupe", "encode": "train-codec"}.get(stage, "encode")
        result = stages.call("run", "folder", str(photos), "--until", until)
        assert result.exit_code == 0, result.output
    for path in photos.glob("*.png"):
        if what == "changed":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            path.rename(path.with_suffix(".moved"))
    result = stages.call(stage)
    expected = (
        "has changed since it was scraped" if what == "changed" else "is missing: it was moved"
    )
    assert result.exit_code != 0, result.output
    assert f"{photos}/" in result.output
    assert expected in result.output
    assert "run `pipeline scrape` for its source again" in result.output


@pytest.mark.parametrize(
    ("suffix", "expected"), [("", "has changed since"), (".x", "is missing: ")]
)
def test_the_report_says_in_place_of_its_images_that_originals_are_gone(
    tmp_path: Path, suffix: str, expected: str
) -> None:
    photos, stages = make_photos(tmp_path / "photos"), Stages(tmp_path / "w")
    result = stages.call("run", "folder", str(photos), "--until", "dedupe")
    assert result.exit_code == 0, result.output
    for path in photos.glob("*.png"):
        path.write_bytes(path.read_bytes()[:-1])
        path.rename(f"{path}{suffix}")
    stages.call("report")
    assert expected in report_of(stages)


def report_of(stages: Stages) -> str:
    (page,) = stages.root.glob("report*.html")
    return page.read_text()


def folder_in(result: Any) -> dict[str, Any]:
    """What `verify --json` says of the raw store."""
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    raw: dict[str, Any] = found["details"]["folders"]["raw"]
    return raw


def test_verify_names_the_originals_that_were_moved_or_changed(tmp_path: Path) -> None:
    photos, stages = make_photos(tmp_path / "photos"), Stages(tmp_path / "w")
    stages.scrape("folder", photos)
    (photos / "03.png").rename(photos / "moved")
    (photos / "04.png").write_bytes(make_png(4) + b"longer")
    data = make_png(5)
    (photos / "05.png").write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    (photos / "06.png").touch()
    result = stages.call("verify", "--json")
    raw = folder_in(result)
    assert result.exit_code != 0
    assert {Path(each["file"]).name: each["found"].split(":")[0] for each in raw["damaged"]} == {
        "03.png": "is missing",
        "04.png": "has changed",
        "05.png": "has changed",
    }


def test_after_a_repair_the_next_scrape_reads_what_changed(tmp_path: Path) -> None:
    photos, stages = make_photos(tmp_path / "photos"), Stages(tmp_path / "w")
    stages.scrape("folder", photos)
    (photos / "03.png").unlink()
    (photos / "04.png").write_bytes(make_png(40))
    repaired = stages.call("verify", "--repair")
    assert "2 images of 2 files outside the workspace wait to be read again" in repaired.output
    assert {rows(stages.root)[name].state for name in ("03.png", "04.png")} == {"pending"}
    stages.scrape("folder", photos)
    found = rows(stages.root)
    assert (found["03.png"].state, found["04.png"].state) == ("missing", "done")
    assert stages.call("verify").exit_code == 0


def test_many_moved_files_are_counted_not_listed(tmp_path: Path) -> None:
    photos, stages = make_photos(tmp_path / "photos"), Stages(tmp_path / "w")
    stages.scrape("folder", photos)
    photos.rename(tmp_path / "elsewhere")
    raw = folder_in(stages.call("verify", "--json"))
    assert len(raw["damaged"]) == 11
    assert "14 more files outside the workspace" in raw["damaged"][-1]["found"]
