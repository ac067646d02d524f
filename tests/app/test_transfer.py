"""`pipeline upload` and `download`: the same workspace at the other end, and nobody's files lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.app.run_log import keep_record
from pipeline.core.errors import LockedError
from pipeline.core.locks import hold_folders
from pipeline.core.remote_folder import RemoteFolder
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME, sha256_bytes
from pipeline.core.workspace import Workspace
from pipeline.webdata.remote import remote_shards
from tests.helpers.cli import run_command
from tests.helpers.object_store import address, bucket, s3_server, stored  # noqa: F401
from tests.helpers.whole_workspace import Whole, whole  # noqa: F401
from tests.webdata.test_remote import put

pytestmark = pytest.mark.timeout(300)


def call(command: str, url: str, root: Path, *more: str) -> Any:
    return run_command([command, url, "--workspace", str(root), *more])


def done(command: str, url: str, root: Path, *more: str) -> dict[str, Any]:
    """The counts of a transfer that must succeed."""
    result = call(command, url, root, "--json", *more)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return {"outcome": report["outcome"], **report["counts"]}


def refused(command: str, url: str, root: Path, *more: str) -> str:
    """What a transfer that must fail says."""
    result = call(command, url, root, *more)
    assert result.exit_code in (1, 2), result.output
    return " ".join(result.stderr.split())


def files_of(root: Path) -> dict[str, bytes]:
    paths = (path for path in root.rglob("*") if path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in paths}
    left_out = [n for n in names if n.startswith((".locks/", ".active/")) or n.endswith("-shm")]
    return {name: path.read_bytes() for name, path in names.items() if name not in left_out}


def record_run(root: Path, command: str = "pipeline dedupe") -> None:
    with keep_record(root, command, clock=lambda: 0.0):
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace with a run and a few files."""
    root = Workspace(tmp_path / "data").open(source="dalleblog").root
    for name in ("raw/segments/00000.tar", "dedupe/kept/00000.parquet", "notes.txt", ".mine/a.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    record_run(root)
    return root


def test_a_whole_workspace_comes_back_as_it_was(
    whole: Whole,  # noqa: F811
    tmp_path: Path,
    bucket: str,  # noqa: F811
) -> None:
    here, there = whole.copy(tmp_path / "here"), Whole(root=tmp_path / "x/y", options=whole.options)
    counts = done("upload", bucket, here.root)
    assert counts["outcome"] == "done"
    assert counts["files"] == len(files_of(here.root)) == len(stored(bucket)) - 1
    assert done("download", bucket, there.root)["downloaded"] == counts["files"]
    assert files_of(there.root) == files_of(here.root)
    verified = there.call("verify")
    assert verified.exit_code == 0, verified.output
    again = there.call("run")
    assert again.exit_code == 0, again.output
    assert "encode: nothing to do" in again.output
    # What the other machine did comes back, and nothing else is sent.
    assert done("upload", bucket, there.root)["uploaded"] <= 4  # runs, marker, report, manifest
    assert "doesn't continue" in refused("upload", bucket, here.root)


def test_only_what_changed_is_sent(root: Path, address: str) -> None:  # noqa: F811
    assert done("upload", address, root)["uploaded"] == 7  # six and the manifest
    assert done("upload", address, root)["outcome"] == "unchanged"
    (root / "notes.txt").unlink()
    (root / "dedupe/kept/00000.parquet").write_text("other")
    (root / "new").write_text("new")
    counts = done("upload", address, root)
    assert (counts["uploaded"], counts["present"], counts["removed"]) == (3, 4, 1)
    assert {n: d for n, d in stored(address).items() if n != MANIFEST_NAME} == files_of(root)


def break_off(patch: pytest.MonkeyPatch) -> None:
    """Let every further upload of a file fail."""

    def fail(_remote: RemoteFolder, _local: Path, path: str) -> None:
        raise ConnectionError(path)

    patch.setattr(RemoteFolder, "put", fail)


def cut(patch: pytest.MonkeyPatch, is_lost: Callable[[str], bool]) -> None:
    """Let reading some of the remote files fail."""
    chunks = RemoteFolder.chunks

    def read(remote: RemoteFolder, path: str, most: int) -> Any:
        if is_lost(path):
            raise ConnectionError("the line is dead")
        return chunks(remote, path, most)

    patch.setattr(RemoteFolder, "chunks", read)


def test_an_upload_that_breaks_off_is_no_copy_until_it_is_run_again(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nobody else may take the place."""
    done("upload", address, root)
    (root / "notes.txt").write_text("other")
    with monkeypatch.context() as patch:
        break_off(patch)
        assert "run the same command again" in refused("upload", address, root)
    assert "has no manifest.json" in refused("download", address, tmp_path / "new")
    other = Workspace(tmp_path / "other").open(source="dalleblog").root
    record_run(other, "pipeline shard")
    assert "doesn't continue" in refused("upload", address, other)
    done("upload", address, root)
    done("download", address, tmp_path / "new")
    assert files_of(tmp_path / "new") == files_of(root)


def test_the_copy_of_before_is_there_while_new_files_are_sent(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done("upload", address, root)
    before = files_of(root)
    (root / "new").write_text("new")
    with monkeypatch.context() as patch:
        break_off(patch)
        refused("upload", address, root)
    done("download", address, tmp_path / "new")
    assert files_of(tmp_path / "new") == before


def test_a_download_that_breaks_off_goes_on(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also from a copy that has been replaced meanwhile: files that are not in it any more go."""
    (root / "raw/ledger.sqlite-wal").write_text("of a crawl that was killed")
    new = tmp_path / "new"
    done("upload", address, root)

    with monkeypatch.context() as patch:
        cut(patch, lambda path: path == "workspace.json")
        assert f"Can't read {address}" in refused("download", address, new)
    assert "beginning of a download" in run_command(["status", "--workspace", str(new)]).stderr
    (root / "raw/ledger.sqlite-wal").unlink()
    done("upload", address, root)
    assert "unfinished download of" in refused("download", f"{address}/other", new)
    (new / "mine.txt").write_text("mine")
    (root / "mine.txt").write_text("not yours")
    done("upload", address, root)
    assert "mine.txt was not downloaded and would be overwritten" in refused(
        "download", address, new
    )
    assert "mine.txt was not downloaded and would be overwritten" in refused(
        "download", address, new
    )
    (new / "mine.txt").rename(new / "mine.bak")
    assert done("download", f"{address}/", new)["downloaded"] == 2
    assert files_of(new) == {**files_of(root), "mine.bak": b"mine"}


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("photos/a.jpg", b"dear to someone"),
        (MANIFEST_NAME, b'{"contract": "shards", "version": 1, "files": []}'),
        (UNFINISHED_NAME, b'{"contract": "shards", "files": []}'),
    ],
)
def test_other_content_at_the_url_is_refused_and_stays(
    root: Path,
    address: str,  # noqa: F811
    path: str,
    data: bytes,
) -> None:
    put(address, path, data)
    refused("upload", address, root)
    refused("upload", address, root, "--replace")
    assert stored(address) == {path: data}


def test_a_copy_with_other_runs_is_only_replaced_on_demand(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
) -> None:
    done("upload", address, root)
    other = tmp_path / "other"
    done("download", address, other)
    record_run(other, "pipeline shard")
    done("upload", address, other)
    before = stored(address)
    record_run(root)
    record_run(root)
    assert "Nothing was touched" in refused("upload", address, root)
    assert stored(address) == before
    done("upload", address, root, "--replace")
    assert stored(address)["runs.jsonl"] == (root / "runs.jsonl").read_bytes()


def test_workspaces_without_runs_are_told_apart(
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Such as one that was just merged: it can resume its own upload, and nobody else can."""
    one, other = (Workspace(tmp_path / name).open(source="dalleblog").root for name in "ab")
    (one / "one.txt").write_text("one")
    with monkeypatch.context() as patch:
        break_off(patch)
        refused("upload", address, one)
    assert "doesn't continue" in refused("upload", address, other)
    done("upload", address, one)
    assert "doesn't continue" in refused("upload", address, other)
    assert done("upload", address, one)["outcome"] == "unchanged"
    assert "one.txt" in stored(address)


@pytest.mark.parametrize("is_mount_point", [False, True])
def test_a_stage_that_is_gone_is_only_removed_from_the_copy_on_demand(
    root: Path,
    address: str,  # noqa: F811
    is_mount_point: bool,
) -> None:
    """A disk that isn't mounted looks the same: an empty folder."""
    done("upload", address, root)
    shutil.rmtree(root / "raw")
    if is_mount_point:
        (root / "raw").mkdir()
    assert "has files in raw, and" in refused("upload", address, root)
    assert "raw/segments/00000.tar" in stored(address)
    assert done("upload", address, root, "--replace")["removed"] == 1


@pytest.mark.parametrize(("before", "after"), [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_a_file_becomes_a_folder_and_a_folder_a_file(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    before: str,
    after: str,
) -> None:
    if address.startswith("memory"):
        pytest.skip("fsspec's store in memory keeps empty folders")
    new = tmp_path / "new"
    (root / before).parent.mkdir(parents=True, exist_ok=True)
    (root / before).write_text("before")
    done("upload", address, root)

    with monkeypatch.context() as patch:
        cut(patch, lambda path: path == "workspace.json")
        refused("download", address, new)
    if (root / "a").is_dir():
        shutil.rmtree(root / "a")
    else:
        (root / "a").unlink()
    (root / after).parent.mkdir(parents=True, exist_ok=True)
    (root / after).write_text("after")
    done("upload", address, root)
    done("download", address, new)
    assert files_of(new) == files_of(root)


def test_a_file_written_where_one_will_be_downloaded_stays(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done("upload", address, root)
    with monkeypatch.context() as patch:
        cut(patch, lambda path: path != MANIFEST_NAME)
        refused("download", address, tmp_path / "new")
    (tmp_path / "new/notes.txt").write_text("mine")
    assert "notes.txt was not downloaded and would be" in refused(
        "download", address, tmp_path / "new"
    )
    assert (tmp_path / "new/notes.txt").read_text() == "mine"


def test_a_download_that_was_killed_at_once_goes_on(root: Path, tmp_path: Path) -> None:
    place, new = f"file://{tmp_path}/copy", tmp_path / "new"
    done("upload", place, root)
    (new / ".locks").mkdir(parents=True)
    (new / f"{UNFINISHED_NAME}.partial").write_text("{")
    done("download", place, new)
    assert files_of(new) == files_of(root)


@pytest.mark.parametrize("place", ["s3:/bucket/x", "caf\udce9"])
def test_a_place_that_can_not_be_a_workspace_is_refused_at_once(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    done("upload", f"file://{tmp_path}/copy", root)
    monkeypatch.chdir(tmp_path)
    refused("download", f"file://{tmp_path}/copy", Path(place))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "data"]


def test_a_file_that_is_missing_in_the_copy_is_named_with_what_to_do(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
) -> None:
    done("upload", address, root)
    remote_shards(address).remove("notes.txt")
    said = refused("download", address, tmp_path / "new")
    assert "notes.txt is missing, though its manifest names it. Write it again with" in said
    done("upload", address, root)
    done("download", address, tmp_path / "new")


def test_changed_bytes_are_not_taken_and_the_advice_mends_them(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
) -> None:
    done("upload", address, root)
    put(address, "notes.txt", b"notes.tx_")
    said = refused("download", address, tmp_path / "new")
    assert "notes.txt is not the file that its manifest describes" in said
    assert "Remove it there, then write it again with `pipeline upload URL`" in said
    assert not (tmp_path / "new/notes.txt").exists()
    remote_shards(address).remove("notes.txt")
    done("upload", address, root)
    done("download", address, tmp_path / "new")


def test_a_mistyped_url_costs_nothing(root: Path, tmp_path: Path, address: str) -> None:  # noqa: F811
    done("upload", address, root)
    assert "has no manifest.json" in refused("download", f"{address}x", tmp_path / "new")
    done("download", address, tmp_path / "new")


@pytest.mark.parametrize("path", ["../escaped", "/tmp/escaped", "a/../../escaped"])
def test_a_manifest_that_names_files_elsewhere_writes_nothing(
    root: Path,
    tmp_path: Path,
    address: str,  # noqa: F811
    path: str,
) -> None:
    done("upload", address, root)
    said = json.loads(stored(address)[MANIFEST_NAME])
    said["files"].append({"path": path, "bytes": 1, "sha256": sha256_bytes(b"x")})
    put(address, MANIFEST_NAME, json.dumps(said).encode())
    assert "Expected a relative path" in refused("download", address, tmp_path / "deep/new")
    assert not (tmp_path / "deep").exists()


def test_a_workspace_that_a_command_writes_is_not_copied(root: Path, address: str) -> None:  # noqa: F811
    (root / "dedupe" / UNFINISHED_NAME).write_text('{"contract": "dedupe", "files": []}')
    with (
        keep_record(root, "pipeline dedupe", clock=lambda: 0.0) as record,
        record.stage("dedupe", writes=["dedupe"]),
    ):
        assert "is in use by" in refused("upload", address, root)
    assert stored(address) == {}


def test_a_command_that_comes_meanwhile_is_refused_and_leaves_no_trace(
    root: Path,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_file = RemoteFolder.put

    def try_it(remote: RemoteFolder, local: Path, path: str) -> None:
        with pytest.raises(LockedError):
            record_run(root)
        put_file(remote, local, path)

    monkeypatch.setattr(RemoteFolder, "put", try_it)
    done("upload", bucket, root)
    assert stored(bucket)["runs.jsonl"] == (root / "runs.jsonl").read_bytes()


def test_a_file_that_changes_meanwhile_is_named(
    root: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put_file = RemoteFolder.put

    def change(remote: RemoteFolder, local: Path, path: str) -> None:
        if path == "notes.txt":
            (root / path).write_text("longer than it was before")
        put_file(remote, local, path)

    monkeypatch.setattr(RemoteFolder, "put", change)
    assert "notes.txt changed while it was copied" in refused("upload", address, root)
    monkeypatch.undo()


def test_links_are_followed_but_not_in_circles(
    root: Path,
    tmp_path: Path,
    bucket: str,  # noqa: F811
) -> None:
    (root / "raw").rename(tmp_path / "large-disk")
    (root / "raw").symlink_to(tmp_path / "large-disk")
    (root / "latest").symlink_to(root / "raw")  # comes before raw
    (root / "dedupe/loop").symlink_to(root)
    done("upload", bucket, root)
    names = set(stored(bucket))
    assert {"raw/segments/00000.tar", "latest/segments/00000.tar"} < names
    assert not [name for name in names if "loop" in name]


def test_a_folder_that_can_not_be_listed_is_not_an_empty_one(
    root: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done("upload", address, root)
    list_folder = Path.iterdir

    def refuse(path: Path) -> Any:
        if path.name == "segments":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return list_folder(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "iterdir", refuse)
        assert "segments: Permission denied" in refused("upload", address, root)
    assert "raw/segments/00000.tar" in stored(address)


def test_a_ledger_whose_crawl_was_killed_comes_back_with_all_its_rows(
    root: Path,
    tmp_path: Path,
    bucket: str,  # noqa: F811
) -> None:
    ledger = sqlite3.connect(root / "raw/ledger.sqlite")
    ledger.execute("PRAGMA journal_mode=WAL")
    ledger.execute("CREATE TABLE rows (n)")
    ledger.execute("INSERT INTO rows VALUES (7)")
    ledger.commit()
    assert (root / "raw/ledger.sqlite-wal").stat().st_size
    done("upload", bucket, root)
    ledger.close()
    done("download", bucket, tmp_path / "new")
    assert not (tmp_path / "new/raw/ledger.sqlite-shm").exists()
    copy = sqlite3.connect(tmp_path / "new/raw/ledger.sqlite")
    assert copy.execute("SELECT n FROM rows").fetchall() == [(7,)]


def file_at_the_top(root: Path) -> None:
    (root / MANIFEST_NAME).write_text("{}")


def pipe(root: Path) -> None:
    os.mkfifo(root / "raw/pipe")


def dead_link(root: Path) -> None:
    (root / "raw/gone").symlink_to(root / "nothing")


def no_workspace(root: Path) -> None:
    (root / "workspace.json").unlink()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (file_at_the_top, "Move it away"),
        (pipe, "not a regular file"),
        (dead_link, "link whose target is missing"),
        (no_workspace, "is not a workspace"),
    ],
)
def test_what_can_not_be_copied_is_named_before_anything_is_sent(
    root: Path,
    bucket: str,  # noqa: F811
    spoil: Callable[[Path], None],
    why: str,
) -> None:
    spoil(root)
    assert why in refused("upload", bucket, root)
    assert stored(bucket) == {}


def test_places_that_would_be_mixed_up_are_refused(root: Path, tmp_path: Path) -> None:
    place = f"file://{tmp_path}/copy"
    assert "in the workspace" in refused("upload", f"file://{root}/copy", root)
    done("upload", place, root)
    before = files_of(root)
    assert "is not empty" in refused("download", place, root)
    assert files_of(root) == before
    assert "URL is empty" in refused("upload", "", root)
    assert "makes a new workspace" in " ".join(run_command(["download", place]).stderr.split())


def test_a_read_only_workspace_is_copied_unless_its_owner_writes_to_it(
    root: Path,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (root / "dedupe" / UNFINISHED_NAME).write_text('{"contract": "dedupe", "files": []}')
    open_file = os.open

    def refuse(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_RDWR | os.O_CREAT) and str(path).startswith(str(root)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, flags, *more, **named)

    @contextlib.contextmanager
    def read_only() -> Iterator[None]:  # root itself may write everywhere
        with monkeypatch.context() as patch:
            patch.setattr(os, "access", lambda *_: False)
            patch.setattr(os, "open", refuse)
            yield

    with hold_folders(root, writes=["dedupe"]), read_only():
        assert "dedupe is in use by" in refused("upload", bucket, root)
    assert stored(bucket) == {}
    before = sorted(root.rglob("*"))
    with read_only():
        done("upload", bucket, root)
    assert sorted(root.rglob("*")) == before
