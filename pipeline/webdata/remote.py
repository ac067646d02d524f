"""Remote shards: publish them to an object store, and download them from one.

A URL is anything that fsspec supports: `s3://bucket/prefix`, `gs://…`, `memory://…`; credentials and
endpoints come from where its libraries look for them (AWS_ENDPOINT_URL…). The remote folder holds the same
files as the local one, byte for byte. A reader begins with the manifest, which is uploaded last, just after
the index, and removed first if a file that it names is about to change. Meanwhile `unfinished.json` lists our
files: only these are replaced or removed. A folder that holds other files but neither of the two is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.cache import default_cache, exclusive_lock
from pipeline.core.contracts import FileEntry, Manifest
from pipeline.core.errors import ContractError, WorkspaceError
from pipeline.core.ownership import path_inside
from pipeline.core.parsing import read_small_file
from pipeline.core.progress import Progress, no_progress
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    atomic_write,
    parse_manifest,
    read_manifest,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from pipeline.core.workspace import Workspace
from pipeline.webdata.index import INDEX_NAME
from pipeline.webdata.remote_folder import CONTRACT, RemoteFolder

_TRANSFERS = 4
_LAST = {INDEX_NAME: 1, MANIFEST_NAME: 2}


@dataclass(frozen=True, kw_only=True)
class Published:
    """How many files were uploaded, were present already, and were removed."""

    uploaded: int
    present: int
    removed: int


def is_url(place: str) -> bool:
    """Whether `place` is a URL for fsspec, not a local path."""
    return "://" in place


def publish(folder: Path, url: str, progress: Progress = no_progress) -> Published:
    """Make the remote folder at `url` match the finished `folder`: upload changes, remove our old files.

    A remote file is up to date if the finished manifest beside it lists it with the same hash, or else if its
    bytes have that hash. Raises WorkspaceError, before anything is written, if the remote folder holds files
    that aren't ours; StorageError if the store fails, ConfigError for an unsupported URL, DependencyError if
    a package for it is missing.
    """
    remote = RemoteFolder(url)
    with remote.explained("write to"):
        manifest = read_manifest(folder, CONTRACT)
        last = _own_entry(folder)
        wanted = {entry.path: entry for entry in (*manifest.files, last)}
        claim, there = remote.find_claim(), remote.sizes()
        missing = [e for e in wanted.values() if not remote.holds(e, there, claim.finished)]
        _refuse_strangers(remote, missing, there.keys() - claim.own)
        others = sorted((claim.own & there.keys()) - wanted.keys() - {UNFINISHED_NAME})
        if missing or others or claim.begun:
            remote.mark(claim.own | wanted.keys())
            if any(entry.path in there for entry in missing) and MANIFEST_NAME in there:
                remote.remove(MANIFEST_NAME)
                missing = [*(e for e in missing if e.path != MANIFEST_NAME), last]
            _upload(folder, remote, missing, progress)
            for path in (*others, UNFINISHED_NAME):
                remote.remove(path)
    return Published(uploaded=len(missing), present=len(wanted) - len(missing), removed=len(others))


def _refuse_strangers(
    remote: RemoteFolder, entries: Iterable[FileEntry], strangers: Set[str]
) -> None:
    """Raise WorkspaceError for a file that isn't ours and would be overwritten."""
    for entry in entries:
        if entry.path in strangers:
            raise WorkspaceError(
                f"{remote.url} holds {entry.path}, which was not published by this command and would be "
                "overwritten. Nothing was touched: move it, or give another URL."
            )


def find_shards(workspace: Workspace, place: str) -> Path:
    """The folder of shards: `place` is a name in the workspace, or a URL to download them from."""
    return download_shards(place) if is_url(place) else workspace.shards(place, option="--shards")


def download_shards(url: str, cache: Path | None = None, progress: Progress = no_progress) -> Path:
    """A local folder with the shards of `url`; the hash of every file is checked.

    Files that are already present are kept. `cache` holds one folder per URL (default: dalle-pipeline in the
    user's cache folder). Raises ContractError for shards that are unfinished, differ from their manifest, or
    have paths outside that folder, and the errors of `publish`.
    """
    remote = RemoteFolder(url)
    folder = (cache or default_cache() / "shards") / sha256_bytes(url.rstrip("/").encode())[:16]
    with remote.explained("read"), exclusive_lock(folder):
        data = remote.read(MANIFEST_NAME)
        if data is None:
            raise ContractError(
                f"{url} has no {MANIFEST_NAME}: there are no finished shards. "
                "Write them with `pipeline shard --out`."
            )
        source = f"{url}/{MANIFEST_NAME}"
        manifest = parse_manifest(data, source, CONTRACT)
        _check_paths(folder, manifest, source)
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        _download(folder, remote, manifest, progress)
        write_bytes(folder / MANIFEST_NAME, data)
    return folder


def _check_paths(folder: Path, manifest: Manifest, source: str) -> None:
    """Raise ContractError for paths that collide or are outside `folder`, before any file is written."""
    times = Counter(entry.path for entry in manifest.files)
    times.update((MANIFEST_NAME, UNFINISHED_NAME))  # written beside them
    for path, count in times.items():
        path_inside(folder, path, source=source)
        if count > 1:
            raise ContractError(
                f"{source} names the file {path!r}, which would be written twice. Write the shards again "
                "with `pipeline shard --out`."
            )


def _own_entry(folder: Path) -> FileEntry:
    data = read_small_file(folder / MANIFEST_NAME)
    return FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))


def _upload(
    folder: Path, remote: RemoteFolder, entries: list[FileEntry], progress: Progress
) -> None:
    """Upload shards in parallel, then the index, then the manifest."""
    total, sent = sum(entry.bytes for entry in entries), 0

    def put(entry: FileEntry) -> int:
        remote.put(folder / entry.path, entry.path)
        return entry.bytes

    for turn in range(3):
        these = [entry for entry in entries if _LAST.get(entry.path, 0) == turn]
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            for size in threads.map(put, these):
                sent += size
                progress(sent, total, {"uploading": remote.url})


def _download(folder: Path, remote: RemoteFolder, manifest: Manifest, progress: Progress) -> None:
    total, received = sum(entry.bytes for entry in manifest.files), 0

    def get(entry: FileEntry) -> int:
        path = folder / entry.path
        if not (path.is_file() and path.stat().st_size == entry.bytes) or (
            sha256_file(path) != entry.sha256
        ):
            _download_file(remote, entry, path)
        return entry.bytes

    with ThreadPoolExecutor(_TRANSFERS) as threads:
        for size in threads.map(get, manifest.files):
            received += size
            progress(received, total, {"from": remote.url})


def _download_file(remote: RemoteFolder, entry: FileEntry, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for chunk in remote.chunks(entry.path, entry.bytes):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ContractError(
                f"{remote.url}/{entry.path} is not the file that its manifest describes (sha256 "
                "differs). Write it again with `pipeline shard --out`."
            )
