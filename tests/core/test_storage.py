"""Atomic files, manifests, the workspace and its lock."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.contracts import FileEntry
from pipeline.core.errors import ContractError, LockedError, StorageError, WorkspaceError
from pipeline.core.locks import hold_folders
from pipeline.core.storage import (
    atomic_write,
    file_entry,
    find_current,
    input_digest,
    make_manifest,
    read_manifest,
    sha256_bytes,
    write_bytes,
    write_json,
    write_manifest,
)
from pipeline.core.workspace import Workspace


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "file"
    write_bytes(path, b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as file:
        file.write(b"half" * (1 // 0))
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "The disk is full: no room to write"),
        (errno.EDQUOT, "The disk is full: no room to write"),
        (errno.EIO, "Can't read or write .*Input/output error"),
        (errno.EACCES, "Can't read or write .*Permission denied"),
    ],
)
def test_what_the_disk_refuses_is_one_clear_sentence(code: int, said: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=said), atomic_write(tmp_path / "file"):
        raise OSError(code, os.strerror(code))
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / "b", b"bb")
    write_bytes(tmp_path / "a", b"a")
    entries = tuple(file_entry(tmp_path / name, tmp_path, rows=1) for name in ("b", "a"))
    manifest = make_manifest(
        "dedupe", config={"x": 1}, inputs={"raw": "0"}, counts={"rows": 2}, files=entries
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path, "dedupe") == manifest
    assert manifest.files[0] == FileEntry(path="a", bytes=1, sha256=sha256_bytes(b"a"), rows=1)


def test_the_same_content_yields_the_same_manifest_bytes(tmp_path: Path) -> None:
    written = []
    for counts in ({"a": 1, "b": 2}, {"b": 2, "a": 1}):
        write_manifest(
            tmp_path, make_manifest("raw", config={}, inputs={}, counts=counts, files=())
        )
        written.append((tmp_path / "manifest.json").read_bytes())
    assert written[0] == written[1]


def test_the_digest_of_an_input_depends_only_on_its_files(tmp_path: Path) -> None:
    def digest(data: bytes, inputs: dict[str, str], name: str = "table") -> str:
        write_bytes(tmp_path / name, data)
        files = (file_entry(tmp_path / name, tmp_path),)
        write_manifest(
            tmp_path, make_manifest("dedupe", config={}, inputs=inputs, counts={}, files=files)
        )
        return input_digest(tmp_path)

    first = digest(b"rows", {"raw": "0"})
    assert digest(b"rows", {"raw": "1"}) == first
    assert digest(b"other", {"raw": "0"}) != first
    assert digest(b"rows", {"raw": "0"}, name="other") != first


@pytest.mark.parametrize(
    "text", ["{", '{"contract": "dedupe", "version": 999}', '{"contract": "raw"}']
)
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ContractError):
        read_manifest(tmp_path, "dedupe")


def test_an_unfinished_folder_says_which_stage_to_run(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="has not finished"):
        read_manifest(tmp_path, "dedupe")


def test_current_means_same_config_and_same_inputs(tmp_path: Path) -> None:
    manifest = make_manifest("dedupe", config={"x": 1}, inputs={"raw": "0"}, counts={}, files=())
    assert find_current(tmp_path, "dedupe", config={"x": 1}, inputs={"raw": "0"}) is None
    write_manifest(tmp_path, manifest)
    assert find_current(tmp_path, "dedupe", config={"x": 1}, inputs={"raw": "0"}) == manifest
    assert find_current(tmp_path, "dedupe", config={"x": 2}, inputs={"raw": "0"}) is None
    assert find_current(tmp_path, "dedupe", config={"x": 1}, inputs={"raw": "1"}) is None


def test_the_content_digest_identifies_a_raw_store(tmp_path: Path) -> None:
    for config in ({}, {"other": 1}):
        write_manifest(
            tmp_path,
            make_manifest(
                "raw", config=config, inputs={}, counts={}, files=(), details={"content": "abc"}
            ),
        )
        assert input_digest(tmp_path) == "abc"


def test_a_new_workspace_is_made_only_for_a_source(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="not a workspace"):
        Workspace(tmp_path / "new").open()
    workspace = Workspace(tmp_path / "new").open(source="dalleblog")
    assert workspace.open() == workspace


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkspaceError, match="Nothing was touched"):
        Workspace(tmp_path).open(source="dalleblog")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        (
            {"format": "dalle-pipeline/workspace", "version": 99, "source": "dalleblog"},
            "version 99",
        ),
        (
            {"format": "dalle-pipeline/workspace", "version": 1, "source": "other"},
            "belongs to the source",
        ),
        ({"format": "something"}, "can't be read"),
        ([], "can't be read"),
    ],
)
def test_a_foreign_marker_is_refused(tmp_path: Path, marker: object, said: str) -> None:
    write_json(tmp_path / "workspace.json", marker)
    with pytest.raises(WorkspaceError, match=said):
        Workspace(tmp_path).open(source="dalleblog")


def test_a_lock_ends_with_the_process_that_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from pipeline.core.locks import hold_folders\n"
        "with hold_folders(Path(sys.argv[1]), writes=['runs/a'], reads=['shards/a']):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    for needs in ({"writes": ["runs/a"]}, {"reads": ["runs/a"]}, {"writes": ["shards/a"]}):
        with (
            pytest.raises(LockedError, match=r"is in use by it\. Wait"),
            hold_folders(tmp_path, **needs, describe=lambda _: "it"),
        ):
            pass
    with hold_folders(tmp_path, reads=["shards/a"], writes=["runs/b"]):
        pass
    holder.kill()
    holder.wait()
    with hold_folders(tmp_path, writes=["runs/a", "shards/a"]):
        pass


def test_json_is_sorted_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": "é", "a": 1})
    text = (tmp_path / "x.json").read_text()
    assert text == '{\n  "a": 1,\n  "b": "é"\n}\n'
    assert json.loads(text) == {"a": 1, "b": "é"}
