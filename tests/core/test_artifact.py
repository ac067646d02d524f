"""The protocol of a stage's folder: current, started, resumed, finished."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.core.artifact import Artifact, digest_input, find_artifact, find_trained
from pipeline.core.errors import ContractError, WorkspaceError
from pipeline.core.storage import input_digest, read_manifest, write_bytes

CONFIG = {"vocab_size": 300}
INPUTS = {"dedupe": "0" * 64}
NAME = "tokenizer.json"


def find(folder: Path, **changes: Any) -> Artifact:
    recipe: dict[str, Any] = {"config": CONFIG, "inputs": INPUTS, **changes}
    return find_artifact(folder, "tokenizer", **recipe)


def make(out: Artifact, data: bytes = b"{}") -> Artifact:
    out.start_over()
    write_bytes(out.folder / NAME, data)
    out.finish(counts={"captions": 2}, files=(NAME,), details={"fingerprint": "f"})
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_current_only_for_its_own_config_and_inputs(tmp_path: Path) -> None:
    make(find(tmp_path / "bpe"))
    assert find(tmp_path / "bpe").is_current
    assert not find(tmp_path / "bpe", config={"vocab_size": 301}).is_current
    assert not find(tmp_path / "bpe", inputs={"dedupe": "1" * 64}).is_current
    assert not find(tmp_path / "other").is_current


def test_the_manifest_replaces_the_mark_and_describes_the_files(tmp_path: Path) -> None:
    out = find(tmp_path / "bpe")
    out.start_over()
    assert names(out.folder) == ["unfinished.json"]
    assert not find(out.folder).is_current
    make(out, b"[]")
    assert names(out.folder) == ["manifest.json", NAME]
    manifest = read_manifest(out.folder, "tokenizer")
    assert [(file.path, file.bytes) for file in manifest.files] == [(NAME, 2)]
    assert (manifest.config, manifest.inputs, manifest.counts) == (CONFIG, INPUTS, {"captions": 2})


def test_a_reopened_folder_keeps_its_files_and_is_not_current(tmp_path: Path) -> None:
    out = make(find(tmp_path / "bpe"))
    out.reopen()
    assert names(out.folder) == [NAME, "unfinished.json"]
    assert not find(out.folder).is_current


def test_a_folder_of_the_user_is_neither_started_nor_reopened(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    for begin in (find(tmp_path).start_over, find(tmp_path).reopen):
        with pytest.raises(WorkspaceError, match="Nothing was touched"):
            begin()
    assert names(tmp_path) == ["thesis.txt"]


def test_the_report_says_whether_this_run_made_the_folder(tmp_path: Path) -> None:
    made = make(find(tmp_path / "bpe")).report(details={"new": 1})
    assert (made.stage, made.outcome, made.counts) == ("train-tokenizer", "done", {"captions": 2})
    assert made.details == {"fingerprint": "f", "new": 1}
    assert made.outputs == (str(tmp_path / "bpe"),)
    found = find(tmp_path / "bpe").report(incomplete=True, counts={"more": 3})
    assert (found.outcome, found.counts) == ("unchanged", {"captions": 2, "more": 3})
    assert make(find(tmp_path / "bpe")).report(incomplete=True).outcome == "incomplete"


def test_a_trained_folder_is_never_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def find_new(size: int) -> Artifact:
        config = {"vocab_size": size}
        return find_trained(tmp_path / "bpe", "tokenizer", config=config, inputs=INPUTS)

    for size, name in ((1, "bpe"), (2, "bpe-2"), (3, "bpe-3")):
        assert make(find_new(size)).folder.name == name
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    for size, name in ((1, "bpe"), (2, "bpe-2"), (3, "bpe-3")):
        assert (find_new(size).folder.name, find_new(size).is_current) == (name, True)


def test_an_unfinished_training_is_resumed_if_it_is_the_same(tmp_path: Path) -> None:
    make(find(tmp_path / "bpe"))
    find(tmp_path / "bpe-2").start_over()

    def place(can_resume: bool) -> str:
        found = find_trained(
            tmp_path / "bpe",
            "tokenizer",
            config={},
            inputs=INPUTS,
            can_resume=lambda folder: can_resume,
        )
        return found.folder.name

    assert place(True) == "bpe-2"
    assert place(False) == "bpe-3"


def test_only_a_finished_folder_is_an_input(tmp_path: Path) -> None:
    out = find(tmp_path / "tokenizers" / "bpe")
    out.start_over()
    with pytest.raises(ContractError, match="has not finished"):
        digest_input(out.folder, "tokenizer", root=tmp_path)
    make(out)
    expected = {"tokenizers/bpe": input_digest(out.folder)}
    assert digest_input(out.folder, "tokenizer", root=tmp_path) == expected
