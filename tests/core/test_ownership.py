"""What a command may write and delete: names, paths from files, ownership."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, ContractError, WorkspaceError
from pipeline.core.names import check_name
from pipeline.core.ownership import (
    checked_relative,
    claim,
    list_family,
    mark_unfinished,
    next_free,
    own_files,
    path_inside,
    remove_own,
    reopen,
    start_over,
)
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import file_entry, make_manifest, write_manifest
from pipeline.core.workspace import Workspace


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def finish(folder: Path, contract: str, *names: str) -> None:
    """A finished folder of `contract` that lists `names`."""
    write(folder, *names)
    files = tuple(file_entry(folder / name, folder) for name in names)
    write_manifest(folder, make_manifest(contract, config={}, inputs={}, counts={}, files=files))


def found(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir()}


# --- Names ---------------------------------------------------------------------------------------

REFUSED = [
    "",
    ".",
    "..",
    "a/b",
    "/a",
    "~",
    "~/a",
    ".hidden",
    "-a",
    "a b",
    "a\nb",
    "a\0b",
    "ä",
    "a.",
    "a" * 129,
]
REFUSED += ["a.partial", "../a", "a/..", "a\\b", "\udce9"]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_is_not_a_slug_is_refused_with_the_rule(name: str) -> None:
    with pytest.raises(ConfigError, match="use letters, digits"):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "0", "small-2", "12L_64HD_16H", "a.b", "A" * 128])
def test_a_slug_is_a_name(name: str) -> None:
    assert check_name(name) == name


def test_a_run_has_two_levels_at_most() -> None:
    assert check_name("taming/12L", levels=2) == "taming/12L"
    for name in ("a/b/c", "a//b", "a/", "/b", "a/..", "../b"):
        with pytest.raises(ConfigError):
            check_name(name, levels=2)


@pytest.mark.parametrize("hand_out", ["codec", "tokenizer", "shards", "run", "generated"])
@pytest.mark.parametrize("name", ["", "..", "/etc", "../raw", ".hidden"])
def test_a_workspace_returns_no_folder_outside_itself(
    tmp_path: Path, hand_out: str, name: str
) -> None:
    with pytest.raises(ConfigError):
        getattr(Workspace(tmp_path), hand_out)(name)


def test_codes_are_named_by_a_slug(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        Workspace(tmp_path).codes("../raw", "0" * 64)


def test_a_family_is_sorted_by_number(tmp_path: Path) -> None:
    for name in (
        "small",
        "small-10",
        "small-2",
        "small-1",
        "small-02",
        "small-x",
        "smaller",
        "small-123456789012",
    ):
        (tmp_path / name).mkdir()
    assert [p.name for p in list_family(tmp_path / "small")] == ["small", "small-2", "small-10"]
    assert next_free(tmp_path / "small").name == "small-11"
    assert next_free(tmp_path / "small-x").name == "small-x-2"
    assert next_free(tmp_path / "new").name == "new"
    (tmp_path / "smaller-2").write_text("a file")
    assert next_free(tmp_path / "smaller").name == "smaller-3"


# --- Paths from files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a//b",
        "./a",
        "a/.",
        "a/",
        "a\0b",
        "x" * 1025,
        None,
        7,
        ["a"],
    ],
)
def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path: Path, path: object) -> None:
    with pytest.raises(ContractError, match=r"m\.json names the path"):
        path_inside(tmp_path, path, source="m.json")


def test_a_path_through_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "elsewhere/a")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder / "loop")
    for name in ("link/a", "link", "loop"):
        with pytest.raises(ContractError):
            path_inside(folder, name, source="m.json")


def test_a_path_that_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    import os

    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ContractError, match="a folder or a device"):
            path_inside(tmp_path, name, source="m.json")


def test_a_file_inside_may_be_there_or_not(tmp_path: Path) -> None:
    write(tmp_path, "a/b")
    assert path_inside(tmp_path, "a/b", source="m.json") == tmp_path / "a/b"
    assert path_inside(tmp_path, "a/new", source="m.json") == tmp_path / "a/new"


# --- Ownership of folders ------------------------------------------------------------------------


@pytest.mark.parametrize("contract", sorted(CONTRACTS))
def test_a_folder_that_is_not_ours_is_refused_by_name_and_left_alone(
    tmp_path: Path, contract: str
) -> None:
    write(tmp_path, "thesis.txt", "records.jsonl")
    before = found(tmp_path)
    for act in (claim, start_over, reopen, remove_own):
        with pytest.raises(WorkspaceError, match=f"{tmp_path} holds records.jsonl"):
            act(tmp_path, contract)
    assert found(tmp_path) == before


@pytest.mark.parametrize("mark", ["manifest.json", "unfinished.json"])
def test_a_folder_of_another_contract_is_refused(tmp_path: Path, mark: str) -> None:
    write(tmp_path, "tokenizer.json")
    (tmp_path / mark).write_text(json.dumps({"contract": "tokenizer", "files": []}))
    with pytest.raises(WorkspaceError, match="holds 'tokenizer', not 'codec'"):
        start_over(tmp_path, "codec")
    assert found(tmp_path) == {mark, "tokenizer.json"}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"contract": "codec"}', '{"contract": "codec", "files": 3}']
)
def test_an_unreadable_mark_does_not_count(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(WorkspaceError, match="can't be read"):
        start_over(tmp_path, "codec")
    assert (tmp_path / "manifest.json").read_text() == text


def test_a_folder_inside_one_of_ours_is_refused(tmp_path: Path) -> None:
    finish(tmp_path / "dalle", "run", "plan.json")
    mark_unfinished(tmp_path / "other", "run")
    for name in ("dalle/x", "other/x"):
        with pytest.raises(WorkspaceError, match="would be inside"):
            start_over(tmp_path / name, "run")


def test_a_new_and_an_empty_folder_are_free(tmp_path: Path) -> None:
    claim(tmp_path, "run")
    claim(tmp_path / "new", "run")
    start_over(tmp_path / "new", "run")
    assert found(tmp_path / "new") == {"unfinished.json"}


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "file")
    with pytest.raises(WorkspaceError, match="is not a folder"):
        start_over(tmp_path / "file", "run")


def test_starting_over_deletes_only_what_the_manifest_lists(tmp_path: Path) -> None:
    finish(tmp_path, "generated", "0000-00.png", "records.jsonl", "contact.png")
    write(tmp_path, "note.txt", "0001-00.png", "sub/a.png")
    start_over(tmp_path, "generated")
    assert found(tmp_path) == {"unfinished.json", "note.txt", "0001-00.png", "sub/a.png"}


def test_an_unfinished_folder_loses_only_files_with_our_names(tmp_path: Path) -> None:
    mark_unfinished(tmp_path, "run")
    ours = [
        "plan.json",
        "log.jsonl",
        "checkpoints/step-000010/model.safetensors",
        "log.jsonl.partial",
    ]
    theirs = [
        "checkpoints/step-000010-best/model.safetensors",
        "checkpoints/step-notes.txt",
        "notes.md",
    ]
    theirs.append("checkpoints/step-000010/notes.txt")
    write(tmp_path, *ours, *theirs)
    assert own_files(tmp_path, "run") == sorted(ours)
    start_over(tmp_path, "run")
    assert found(tmp_path) == {"unfinished.json", *theirs}


def test_a_reopened_folder_keeps_and_describes_its_files(tmp_path: Path) -> None:
    finish(tmp_path, "run", "plan.json", "an-old-name.bin")
    reopen(tmp_path, "run")
    assert found(tmp_path) == {"unfinished.json", "plan.json", "an-old-name.bin"}
    assert own_files(tmp_path, "run") == ["an-old-name.bin", "plan.json"]


def test_killed_between_mark_and_deleting_the_same_files_are_deleted_next_time(
    tmp_path: Path,
) -> None:
    finish(tmp_path, "generated", "0000-00.png", "an-old-name.bin")
    reopen(tmp_path, "generated")  # as far as a killed `start_over` comes
    start_over(tmp_path, "generated")
    assert found(tmp_path) == {"unfinished.json"}


def test_the_manifest_replaces_the_mark(tmp_path: Path) -> None:
    start_over(tmp_path, "tokenizer")
    finish(tmp_path, "tokenizer", "tokenizer.json")
    assert found(tmp_path) == {"manifest.json", "tokenizer.json"}


def test_removing_leaves_what_is_not_ours(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    finish(folder, "codec", "codec.json", "codec.safetensors")
    write(folder, "note.txt")
    remove_own(folder, "codec")
    assert found(folder) == {"note.txt"}
    finish(tmp_path / "other", "codec", "codec.json")
    remove_own(tmp_path / "other", "codec")
    assert not (tmp_path / "other").exists()


def test_files_behind_a_linked_folder_are_not_deleted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "step-000010/model.safetensors")
    folder = tmp_path / "run"
    mark_unfinished(folder, "run")
    (folder / "checkpoints").symlink_to(elsewhere)
    start_over(folder, "run")
    assert found(elsewhere) == {"step-000010/model.safetensors"}


@pytest.mark.parametrize("path", ["../../a", "/etc/passwd"])
def test_a_manifest_that_lists_files_elsewhere_deletes_nothing(tmp_path: Path, path: str) -> None:
    write(tmp_path, "a")
    folder = tmp_path / "x" / "y"
    folder.mkdir(parents=True)
    entry = {"path": path, "bytes": 1, "sha256": "", "rows": None}
    (folder / "manifest.json").write_text(json.dumps({"contract": "codec", "files": [entry]}))
    with pytest.raises(ContractError, match="names the path"):
        start_over(folder, "codec")
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("contract", "names"),
    [
        ("run", ["plan.json", "log.jsonl"]),
        ("generated", ["unfinished.jsonl", "0000-00.png"]),
        ("codec", ["checkpoint.json", "checkpoint.pt"]),
        ("shards", ["scratch/base.npz", "train/000000.tar", "train/000000.idx.npy"]),
        ("codes", ["00000.parquet", "00001.failed.jsonl"]),
        ("dedupe", ["work.sqlite", "kept/00000.parquet"]),
    ],
)
def test_what_an_earlier_version_left_unfinished_is_ours(
    tmp_path: Path, contract: str, names: list[str]
) -> None:
    write(tmp_path, *names)
    assert own_files(tmp_path, contract) == sorted(names)


@pytest.mark.parametrize(
    ("length", "taken"), [(1, True), (1023, True), (1024, True), (1025, False)]
)
def test_a_path_in_a_file_may_have_1024_characters(length: int, taken: bool) -> None:
    path = "/".join(["x" * 15] * 64)[:length].rstrip("/").ljust(length, "x")
    if taken:
        assert checked_relative(path, source="x") == path
        return
    with pytest.raises(ContractError):
        checked_relative(path, source="x")
