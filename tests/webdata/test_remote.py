"""Publishing and downloading shards: other files at either end are neither lost nor written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import fsspec
import pytest

from pipeline.core.errors import ConfigError, ContractError, StorageError, WorkspaceError
from pipeline.core.remote_copy import Published
from pipeline.core.remote_folder import RemoteFolder
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    file_entry,
    make_manifest,
    sha256_bytes,
    write_bytes,
    write_manifest,
)
from pipeline.webdata.remote import download_shards, publish
from tests.helpers.object_store import address, bucket, s3_server, stored  # noqa: F401

FILES = {"train/000000.tar": b"one", "train/000001.tar": b"two", "index.json": b"{}"}
pytestmark = pytest.mark.timeout(120)


def write_folder(folder: Path, files: Mapping[str, bytes] = FILES) -> Path:
    """A finished folder of shards with these files."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in files.items():
        write_bytes(folder / name, data)
    entries = tuple(file_entry(folder / name, folder) for name in files)
    write_manifest(folder, make_manifest("shards", config={}, inputs={}, counts={}, files=entries))
    return folder


def put(address: str, path: str, data: bytes) -> None:  # noqa: F811
    """Put a file at the URL, as its owner would."""
    store, root = fsspec.core.url_to_fs(f"{address}/{path}")
    store.makedirs(root.rpartition("/")[0], exist_ok=True)
    store.pipe_file(root, data)


def manifest_of(address: str, paths: list[str], data: bytes = b"one") -> bytes:  # noqa: F811
    """A manifest of shards that names these paths."""
    entry = {"bytes": len(data), "sha256": sha256_bytes(data), "rows": None}
    facts = {"contract": "shards", "version": 1, "config": {}, "inputs": {}, "counts": {}}
    return json.dumps({**facts, "files": [{"path": p, **entry} for p in paths]}).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "shards")


# --- Publishing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("photos/a.jpg", b"dear to someone"),
        ("index.json", b"{}"),
        (".hidden", b""),
        ("train/000000.tar", b"one"),
        (MANIFEST_NAME, b'{"contract": "run", "version": 1, "files": []}'),
        (MANIFEST_NAME, b"\0\0\0"),
        (UNFINISHED_NAME, b'{"contract": "run", "files": []}'),
        (UNFINISHED_NAME, b"not JSON"),
    ],
)
def test_a_url_with_other_content_is_refused_by_name_and_untouched(
    folder: Path,
    address: str,  # noqa: F811
    path: str,
    data: bytes,
) -> None:
    put(address, path, data)
    with pytest.raises(WorkspaceError, match=f"holds .*{path.split('/')[0]}.* Nothing was touched"):
        publish(folder, address)
    assert stored(address) == {path: data}


def test_a_url_of_a_file_is_refused(folder: Path, address: str) -> None:  # noqa: F811
    put(address, "photo", b"dear to someone")
    with pytest.raises((WorkspaceError, ContractError, StorageError)):
        publish(folder, f"{address}/photo")
    assert stored(address) == {"photo": b"dear to someone"}


def test_content_beside_a_url_does_not_matter(folder: Path, address: str) -> None:  # noqa: F811
    put(address, "photos/a.jpg", b"dear to someone")
    put(address, "shards-of-old/a.jpg", b"dear to someone")
    publish(folder, f"{address}/shards")
    assert len(stored(address)) == 2 + len(FILES) + 1
    assert stored(address)["photos/a.jpg"] == b"dear to someone"


def test_an_empty_folder_marker_does_not_count(folder: Path, bucket: str) -> None:  # noqa: F811
    import boto3  # type: ignore[import-untyped]

    bucket_name, _, prefix = bucket.removeprefix("s3://").partition("/")
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    boto3.client("s3", endpoint_url=endpoint).put_object(Bucket=bucket_name, Key=f"{prefix}/")
    publish(folder, bucket)
    assert set(FILES) < set(stored(bucket))


def test_a_users_file_beside_ours_stays(
    tmp_path: Path,
    folder: Path,
    address: str,  # noqa: F811
) -> None:
    publish(folder, address)
    put(address, "train/notes.txt", b"mine")
    put(address, "readme", b"mine")
    publish(write_folder(tmp_path / "new", {"val/000000.tar": b"x"}), address)
    there = stored(address)
    assert set(there) == {"val/000000.tar", MANIFEST_NAME, "train/notes.txt", "readme"}
    assert there["train/notes.txt"] == there["readme"] == b"mine"


def test_a_users_file_with_the_name_of_a_new_one_is_refused(
    tmp_path: Path,
    folder: Path,
    address: str,  # noqa: F811
) -> None:
    publish(folder, address)
    put(address, "train/000002.tar", b"mine")
    before = stored(address)
    more = write_folder(tmp_path / "more", {**FILES, "train/000002.tar": b"three"})
    with pytest.raises(WorkspaceError, match=r"train/000002\.tar, which was not published by"):
        publish(more, address)
    assert stored(address) == before
    put(address, "train/000002.tar", b"three")
    assert publish(more, address) == Published(uploaded=1, present=4, removed=0)


@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_an_interrupted_first_publication_resumes(
    folder: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    upload = RemoteFolder.put
    sent: list[str] = []

    def failing(place: RemoteFolder, local: Path, path: str) -> None:
        if len(sent) == after:
            raise ConnectionError("no route to host")
        sent.append(path)
        upload(place, local, path)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", failing)
        with pytest.raises(StorageError, match="no route to host"):
            publish(folder, address)
    assert UNFINISHED_NAME in stored(address)
    assert MANIFEST_NAME not in stored(address)
    publish(folder, address)
    assert stored(address) == {**FILES, MANIFEST_NAME: (folder / MANIFEST_NAME).read_bytes()}


def test_an_update_after_an_interrupted_one_removes_the_leftovers_of_both(
    tmp_path: Path,
    folder: Path,
    address: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publish(folder, address)
    put(address, "notes.txt", b"mine")
    other = write_folder(tmp_path / "other", {"index.json": b"[]", "val/000000.tar": b"x"})
    last = write_folder(tmp_path / "last", {"index.json": b"{}"})

    def failing(place: RemoteFolder, path: str) -> None:
        raise ConnectionError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", lambda *_: failing(*_[:2]))
        with pytest.raises(StorageError):
            publish(other, address)
    # New files come first: until one is replaced, the shards of before can be read.
    assert stored(address)[MANIFEST_NAME] == (folder / MANIFEST_NAME).read_bytes()
    publish(last, address)
    assert set(stored(address)) == {"index.json", MANIFEST_NAME, "notes.txt"}


@pytest.mark.parametrize("path", ["../photos/a.jpg", "/etc/passwd", "train/../../photos/a.jpg"])
@pytest.mark.parametrize("name", [MANIFEST_NAME, UNFINISHED_NAME])
def test_a_remote_manifest_that_names_files_elsewhere_removes_none(
    folder: Path,
    address: str,  # noqa: F811
    path: str,
    name: str,
) -> None:
    place = f"{address}/shards"
    put(address, "photos/a.jpg", b"dear to someone")
    mark = json.dumps({"contract": "shards", "version": 1, "files": [path]}).encode()
    put(place, name, manifest_of(place, [path]) if name == MANIFEST_NAME else mark)
    before = stored(address)
    with pytest.raises((ContractError, WorkspaceError), match="names the path"):
        publish(folder, place)
    assert stored(address) == before


def test_nothing_is_removed_or_written_through_a_link(folder: Path, tmp_path: Path) -> None:
    photos, place = tmp_path / "photos", tmp_path / "place"
    write_bytes(photos / "000000.tar", b"dear to someone")
    place.mkdir()
    (place / "train").symlink_to(photos)
    for paths in (["train/000000.tar"], ["index.json"]):
        (place / MANIFEST_NAME).write_bytes(manifest_of("", paths))
        with pytest.raises(ContractError, match="outside"):
            publish(folder, f"file://{place}")
    assert (photos / "000000.tar").read_bytes() == b"dear to someone"
    assert [path.name for path in photos.iterdir()] == ["000000.tar"]


@pytest.mark.parametrize("place", ["", " "])
def test_an_empty_url_is_not_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="URL is empty"):
        publish(folder, place)
    assert list((tmp_path / "here").iterdir()) == []


# --- Downloading ---------------------------------------------------------------------------------

ELSEWHERE = ["/root/.bashrc", "../../../escaped", "train/../../escaped", "", ".", "a//b", "a/./b"]


@pytest.mark.parametrize("path", [*ELSEWHERE, "x" * 2000, "a\0b", MANIFEST_NAME, UNFINISHED_NAME])
def test_a_manifest_that_names_files_elsewhere_downloads_nothing(
    tmp_path: Path,
    address: str,  # noqa: F811
    path: str,
) -> None:
    put(address, "train/000000.tar", b"one")
    put(address, MANIFEST_NAME, manifest_of(address, ["train/000000.tar", path]))
    cache = tmp_path / "deep/er/cache"
    with pytest.raises(ContractError, match=r"manifest\.json(: | names the)"):
        download_shards(address, cache)
    found = {p for p in tmp_path.rglob("*") if p.name in ("000000.tar", "escaped")}
    assert found == set((tmp_path / "out").rglob("000000.tar"))


def test_a_manifest_that_names_a_file_twice_downloads_nothing(
    tmp_path: Path,
    address: str,  # noqa: F811
) -> None:
    put(address, "train/000000.tar", b"one")
    put(address, MANIFEST_NAME, manifest_of(address, ["train/000000.tar", "train/000000.tar"]))
    with pytest.raises(ContractError, match=r"'train/000000\.tar', which would be written twice"):
        download_shards(address, tmp_path / "cache")


def test_no_more_is_fetched_than_the_manifest_says(tmp_path: Path, address: str) -> None:  # noqa: F811
    put(address, "train/000000.tar", b"one and much more")
    put(address, MANIFEST_NAME, manifest_of(address, ["train/000000.tar"]))
    with pytest.raises(ContractError, match="has more than the expected 3 bytes"):
        download_shards(address, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tar*"))


def test_a_device_or_a_pipe_at_the_url_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "place"
    (place / "train").mkdir(parents=True)
    (place / MANIFEST_NAME).write_bytes(manifest_of("", ["train/000000.tar"]))
    for make in (lambda p: p.symlink_to("/dev/zero"), os.mkfifo):
        for path in (place / "train/000000.tar", place / MANIFEST_NAME):
            kept = path.read_bytes() if path.exists() else None
            path.unlink(missing_ok=True)
            make(path)
            with pytest.raises(ContractError, match=r"outside|a folder or a device"):
                download_shards(f"file://{place}", tmp_path / "cache")
            path.unlink()
            if kept is not None:
                path.write_bytes(kept)


def test_a_link_in_the_cache_is_not_written_through(tmp_path: Path, address: str) -> None:  # noqa: F811
    put(address, "train/000000.tar", b"one")
    put(address, MANIFEST_NAME, manifest_of(address, ["train/000000.tar"]))
    folder = download_shards(address, tmp_path / "cache")
    shutil.rmtree(folder / "train")
    (tmp_path / "photos").mkdir()
    (folder / "train").symlink_to(tmp_path / "photos")
    with pytest.raises(ContractError, match="outside"):
        download_shards(address, tmp_path / "cache")
    assert list((tmp_path / "photos").iterdir()) == []
