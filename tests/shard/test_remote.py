"""Shards on an object store: the same bytes, uploaded once, complete or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipeline.core.errors import ConfigError, ContractError, StorageError
from pipeline.core.remote_folder import RemoteFolder
from pipeline.core.storage import UNFINISHED_NAME
from pipeline.shard.config import ShardConfig
from pipeline.shard.run import run
from pipeline.webdata.reader import ShardReader
from pipeline.webdata.remote import download_shards, remote_shards
from tests.helpers.object_store import address, bucket, s3_server, stored, stored_names  # noqa: F401


def configure(world: Any, out: str | None, **options: Any) -> ShardConfig:
    settings = {"text_seq_len": 24, "max_samples": 20} | options
    return ShardConfig(workspace=world.root, out=out, **settings)


def modified(place: str) -> dict[str, Any]:
    """When each object was written."""
    store, root = fsspec.core.url_to_fs(place)
    store.invalidate_cache()
    found = store.find(root, detail=True)
    return {path[len(root) + 1 :]: info["LastModified"] for path, info in found.items()}


def test_the_remote_folder_has_the_same_bytes_as_the_local_one(world: Any, address: str) -> None:  # noqa: F811
    report = run(configure(world, address))
    assert report.outcome == "done"
    assert report.outputs[1] == address
    assert stored(address) == world.shard_bytes()


def test_nothing_is_uploaded_twice(world: Any, bucket: str) -> None:  # noqa: F811
    run(configure(world, bucket))
    before = modified(bucket)
    time.sleep(1.1)
    report = run(configure(world, bucket))
    assert report.outcome == "unchanged"
    assert report.details["published"] == {"uploaded": 0, "present": len(before), "removed": 0}
    assert modified(bucket) == before


def test_new_images_upload_only_new_shards(world: Any, bucket: str) -> None:  # noqa: F811
    run(configure(world, bucket))
    before = modified(bucket)
    world.add(range(100, 130))
    world.save()
    time.sleep(1.1)
    run(configure(world, bucket))
    after = modified(bucket)
    assert stored(bucket) == world.shard_bytes()
    touched = {path for path in before if after[path] != before[path]}
    assert touched == {"README.md", "index.json", "manifest.json"}
    assert {path.split("/")[0] for path in after.keys() - before.keys()} == {"train", "val"}


def test_removed_shards_are_removed_remotely(world: Any, bucket: str) -> None:  # noqa: F811
    run(configure(world, bucket))
    report = run(configure(world, bucket, max_samples=30))
    assert report.details["published"]["removed"] > 0
    assert stored(bucket) == world.shard_bytes()


class UnpluggedError(Exception):
    """Simulates a lost network."""


@pytest.mark.parametrize("after", [0, 1, 5, 9])
def test_an_interrupted_upload_resumes_with_what_is_missing(
    world: Any,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    left, put, sent = [after], RemoteFolder.put, []

    def failing(self: Any, local: Path, path: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise UnpluggedError("no route to host")
        put(self, local, path)
        sent.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", failing)
        with pytest.raises(StorageError, match=r"Can't write to s3://.*no route to host"):
            run(configure(world, bucket))
    assert "manifest.json" not in stored(bucket)
    with pytest.raises(ContractError, match="no finished shards"):
        download_shards(bucket, world.root / "cache")
    before = set(stored(bucket)) - {UNFINISHED_NAME}
    assert before == set(sent)
    report = run(configure(world, bucket))
    assert report.details["published"]["present"] == len(before)
    assert stored(bucket) == world.shard_bytes()


def test_a_damaged_object_is_uploaded_again(world: Any, bucket: str) -> None:  # noqa: F811
    """Without a manifest, only its bytes show that a file is up to date."""
    run(configure(world, bucket))
    remote_shards(bucket).mark(stored(bucket))
    store = fsspec.filesystem("s3")
    path = f"{bucket}/train/000001.tar"
    store.pipe_file(path, b"x" * store.info(path)["size"])
    store.rm_file(f"{bucket}/manifest.json")
    report = run(configure(world, bucket))
    assert report.details["published"]["uploaded"] == 2
    assert stored(bucket) == world.shard_bytes()


def test_a_changed_shard_removes_the_manifest_first(
    world: Any,
    bucket: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(configure(world, bucket))
    world.rows[3]["caption"] += " again"
    world.save()

    def failing(self: Any, local: Path, path: str) -> None:
        raise UnpluggedError

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", failing)
        with pytest.raises(StorageError):
            run(configure(world, bucket))
    assert "manifest.json" not in stored(bucket)
    run(configure(world, bucket))
    assert stored(bucket) == world.shard_bytes()


def test_a_reader_downloads_and_reads_them(world: Any, bucket: str) -> None:  # noqa: F811
    run(configure(world, bucket))
    folder = download_shards(bucket, world.root / "cache")
    brought = {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }
    assert brought == world.shard_bytes()
    reader = ShardReader(folder, "train")
    assert len(reader) == 52
    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*.tar")}
    (folder / "val/000000.tar").write_bytes(b"damaged")
    assert download_shards(bucket, world.root / "cache") == folder
    changed = {p for p, at in times.items() if p.stat().st_mtime_ns != at}
    assert {p.name for p in changed} == {"000000.tar"}
    assert len(ShardReader(folder, "val")) == 8


def test_a_changed_object_is_named_and_not_kept(world: Any, bucket: str) -> None:  # noqa: F811
    run(configure(world, bucket))
    store = fsspec.filesystem("s3")
    path = f"{bucket}/train/000001.tar"
    store.pipe_file(path, b"x" * store.info(path)["size"])
    with pytest.raises(ContractError, match=r"train/000001\.tar is not the file"):
        download_shards(bucket, world.root / "cache")
    assert not list((world.root / "cache").rglob("000001.tar"))


def test_a_missing_bucket_is_explained(world: Any, bucket: str) -> None:  # noqa: F811
    with pytest.raises(StorageError, match="Can't write to s3://no-such-bucket/x"):
        run(configure(world, "s3://no-such-bucket/x"))
    assert run(configure(world, bucket)).outcome == "done"


def test_an_unknown_kind_of_url_is_refused(world: Any) -> None:
    with pytest.raises(ConfigError, match="not a URL that fsspec supports"):
        run(configure(world, "nowhere://bucket/x"))


def test_the_url_does_not_affect_the_shards(make_world: Callable[..., Any]) -> None:
    plain, copied = make_world("one"), make_world("two")
    run(configure(plain, None))
    run(configure(copied, "memory://elsewhere"))
    assert plain.shard_bytes() == copied.shard_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("objects", [1, 3, 8])
def test_killed_while_uploading_it_ends_in_the_same_objects(
    world: Any,
    bucket: str,  # noqa: F811
    objects: int,
) -> None:
    """The uploads that come after the mark and some files wait until it is killed."""
    run(configure(world, None))
    code = (
        "import itertools, sys, time; from pathlib import Path\n"
        "from pipeline.shard.config import ShardConfig; from pipeline.shard.run import run\n"
        "from pipeline.core.remote_folder import RemoteFolder\n"
        "put, sent = RemoteFolder.put, itertools.count(1)\n"
        "def wait(*arguments): put(*arguments) if next(sent) < int(sys.argv[3]) else time.sleep(3600)\n"
        "RemoteFolder.put = wait\n"
        "run(ShardConfig(workspace=Path(sys.argv[1]), out=sys.argv[2], text_seq_len=24, max_samples=20))"
    )
    words = [str(world.root), bucket, str(objects)]
    process = subprocess.Popen([sys.executable, "-c", code, *words])
    while len(stored_names(bucket)) < objects and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert "manifest.json" not in stored(bucket)
    run(configure(world, bucket))
    assert stored(bucket) == world.shard_bytes()
    assert json.loads(stored(bucket)["manifest.json"])["contract"] == "shards"
