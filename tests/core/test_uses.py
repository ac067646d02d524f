"""Dependencies between folders, and what `pipeline clean` may remove."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.locks import hold_folders
from pipeline.core.remembered import note_latest
from pipeline.core.storage import file_entry, make_manifest, write_json, write_manifest
from pipeline.core.uses import find_unneeded, find_uses
from pipeline.core.workspace import Workspace
from tests.helpers.cli import run_command


def finish(root: Path, name: str, *, inputs: tuple[str, ...] = (), **details: Any) -> None:
    contract = {"codecs": "codec", "tokenizers": "tokenizer", "codes": "codes", "shards": "shards"}
    contract |= {"runs": "run", "generated": "generated"}
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "tokenizer.json").write_text("x" * 10)
    manifest = make_manifest(
        contract[name.split("/")[0]],
        config={},
        inputs=dict.fromkeys(inputs, "0" * 64),
        counts={},
        files=(file_entry(folder / "tokenizer.json", folder),),
        details=details,
    )
    write_manifest(folder, manifest)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two codecs and tokenizers; only the older ones were used, up to a run."""
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    for number in ("", "-2", "-3"):
        finish(root, f"codecs/small{number}", fingerprint=f"fp-codec{number}")
        finish(root, f"tokenizers/bpe{number}", fingerprint=f"fp-bpe{number}")
    finish(root, "codes/small-aaa", inputs=("codecs/small",), fingerprint="fp-codes")
    finish(root, "codes/small-2-bbb", inputs=("codecs/small-2",), fingerprint="fp-codes-2")
    finish(root, "shards/default", inputs=("codes/small-aaa", "tokenizers/bpe"))
    note_latest(root, "codec", root / "codecs" / "small-3")
    note_latest(root, "tokenizer", root / "tokenizers" / "bpe-3")
    note_latest(root, "codes", root / "codes" / "small-aaa")
    return root


def test_uses_are_known_by_path_and_by_fingerprint(root: Path) -> None:
    write_json(root / "runs/x/checkpoints/step-000010/checkpoint.json", {"tokenizer": "fp-bpe-2"})
    uses = {use.folder.name: use.used_by for use in find_uses(root)}
    assert uses["codecs/small"] == ("codes/small-aaa",)
    assert uses["codes/small-aaa"] == ("shards/default",)
    assert uses["tokenizers/bpe-2"] == ("runs/x",)
    assert uses["codecs/small-3"] == ()


def test_an_unused_chain_is_unneeded_and_the_latest_is_not(root: Path) -> None:
    names = [folder.name for folder in find_unneeded(root)]
    assert names == ["tokenizers/bpe-2", "codecs/small-2", "codes/small-2-bbb"]


def test_an_unfinished_run_needs_what_its_checkpoint_names(root: Path) -> None:
    write_json(
        root / "runs/x/checkpoints/step-000010/checkpoint.json",
        {"tokenizer": "fp-bpe-2", "codec": "fp-codec-2"},
    )
    assert [folder.name for folder in find_unneeded(root)] == ["codes/small-2-bbb"]


def test_without_a_recorded_latest_everything_stays(tmp_path: Path) -> None:
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    finish(root, "codecs/small", fingerprint="a")
    assert find_unneeded(root) == []


def clean(root: Path, *options: str) -> Any:
    result = run_command(["clean", "--workspace", str(root), "--json", *options])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def test_clean_only_lists_unless_told_to_remove(root: Path) -> None:
    (root / "codecs/small-2/note.txt").write_text("mine")
    code, report = clean(root)
    assert (code, report["counts"]) == (0, {"unneeded": 3, "bytes": 30})
    assert (root / "codecs/small-2/tokenizer.json").exists()
    code, report = clean(root, "--yes")
    assert (code, report["counts"]) == (0, {"removed": 3, "bytes": 30})
    assert not (root / "tokenizers/bpe-2").exists()
    assert [path.name for path in (root / "codecs/small-2").iterdir()] == ["note.txt"]
    assert (root / "codecs/small/tokenizer.json").exists()
    assert clean(root, "--yes")[1]["counts"] == {"removed": 0, "bytes": 0}


def test_clean_waits_for_nobody_and_touches_nothing_beside_a_running_command(root: Path) -> None:
    with hold_folders(root, reads=["workspace"]):
        code, report = clean(root, "--yes")
    assert (code, report["error"]["type"]) == (1, "LockedError")
    assert (root / "tokenizers/bpe-2/tokenizer.json").exists()
    assert clean(root)[0] == 0


def test_status_shows_which_folders_use_which(root: Path) -> None:
    result = run_command(["status", "--workspace", str(root), "--json"])
    rows = json.loads(result.stdout)["details"]
    assert rows["codecs/small"]["used_by"] == ["codes/small-aaa"]
    assert rows["codecs/small-2"]["used_by"] == ["codes/small-2-bbb"]


def start_run(root: Path, name: str, resume_from: str | None, *, finished: bool = True) -> None:
    begun = None if resume_from is None else str(root / "runs" / resume_from)
    write_json(root / "runs" / name / "plan.json", {"resume_from": begun})
    if finished:
        folder = root / "runs" / name
        files = (file_entry(folder / "plan.json", folder),)
        manifest = make_manifest("run", config={}, inputs={}, counts={}, files=files)
        write_manifest(folder, manifest)


def test_old_runs_of_a_series_go_and_those_that_something_needs_stay(root: Path) -> None:
    times = [f"dalle-202601{day:02}T000000" for day in (4, 11, 18, 25)]
    for name, before in zip(times, [None, *times], strict=False):
        start_run(root, name, before)
    start_run(root, "by-hand", None)
    start_run(root, "other-20260104T000000", None)
    code, report = clean(root, "--keep-runs", "2")
    assert (code, list(report["details"]["folders"])) == (0, [f"runs/{n}" for n in times[:2]])
    assert (root / "runs" / times[0]).exists()

    finish(root, "generated/first", checkpoint=f"{root}/runs/{times[0]}/checkpoints/step-000010")
    start_run(root, "second", times[1])
    assert clean(root, "--keep-runs", "2")[1]["details"]["folders"] == {}
    start_run(root, "dalle-20260201T000000", times[2], finished=False)
    report = clean(root, "--keep-runs", "1", "--yes")[1]
    assert report["counts"]["removed"] == 0
    start_run(root, "dalle-20260201T000000", times[2])
    report = clean(root, "--keep-runs", "1", "--yes")[1]
    assert list(report["details"]["folders"]) == [f"runs/{n}" for n in times[2:]]
    assert not (root / "runs" / times[2]).exists()
    assert (root / "runs" / "dalle-20260201T000000").exists()
