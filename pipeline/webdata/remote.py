"""Shards at another address: copied to an object store, and brought back from one.

An address is what fsspec knows: `s3://bucket/prefix`, `gs://…`, `memory://…`; credentials and
endpoints come from where its libraries look for them (AWS_ENDPOINT_URL…). It holds the same files
as the folder, byte for byte. A reader begins with the manifest, which is uploaded last, just after
the index, and removed first where a file that it names is about to change. Meanwhile `unfinished.json`
lists the files that are ours: only these are replaced or removed, and a place that holds other files
and neither of the two is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.cache import alone, default_cache
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
from pipeline.webdata.address import CONTRACT, Place
from pipeline.webdata.index import INDEX_NAME

_TRANSFERS = 4
_LAST = {INDEX_NAME: 1, MANIFEST_NAME: 2}


@dataclass(frozen=True, kw_only=True)
class Published:
    """How many files were uploaded, stood there already, and were removed."""

    uploaded: int
    present: int
    removed: int


def is_address(place: str) -> bool:
    """Whether `place` is an address for fsspec, not a path of this machine."""
    return "://" in place


def publish(folder: Path, address: str, progress: Progress = no_progress) -> Published:
    """Let `address` hold the files of the finished `folder`: upload what differs, remove what was ours.

    A file that is there counts if the finished manifest beside it names it with the same hash, or
    else if its bytes have that hash. Raises WorkspaceError, before anything is written, where the address
    holds files that aren't ours; StorageError where the store refuses, ConfigError for an address of an
    unknown kind, DependencyError where a package for it is missing.
    """
    place = Place(address)
    with place.explained("write to"):
        manifest = read_manifest(folder, CONTRACT)
        last = _own_entry(folder)
        wanted = {entry.path: entry for entry in (*manifest.files, last)}
        claim, there = place.find_claim(), place.sizes()
        missing = [e for e in wanted.values() if not place.holds(e, there, claim.finished)]
        _refuse_strangers(place, missing, there.keys() - claim.own)
        others = sorted((claim.own & there.keys()) - wanted.keys() - {UNFINISHED_NAME})
        if missing or others or claim.begun:
            place.mark(claim.own | wanted.keys())
            if any(entry.path in there for entry in missing) and MANIFEST_NAME in there:
                place.remove(MANIFEST_NAME)
                missing = [*(e for e in missing if e.path != MANIFEST_NAME), last]
            _upload(folder, place, missing, progress)
            for path in (*others, UNFINISHED_NAME):
                place.remove(path)
    return Published(uploaded=len(missing), present=len(wanted) - len(missing), removed=len(others))


def _refuse_strangers(place: Place, entries: Iterable[FileEntry], strangers: Set[str]) -> None:
    """Raise WorkspaceError for a file that would be overwritten and isn't ours."""
    for entry in entries:
        if entry.path in strangers:
            raise WorkspaceError(
                f"{place.address} holds {entry.path}, which was not published by this command and would be "
                "overwritten. Nothing was touched: move it, or give another address."
            )


def find_shards(workspace: Workspace, place: str) -> Path:
    """The folder of shards: `place` is a name in the workspace, or an address to bring them from."""
    return bring(place) if is_address(place) else workspace.shards(place, option="--shards")


def bring(address: str, cache: Path | None = None, progress: Progress = no_progress) -> Path:
    """A folder of this machine with the shards of `address`, every file's hash checked.

    What is there already stays. `cache` holds a folder for each address (default: dalle-pipeline in
    the user's cache folder). Raises ContractError for shards that are unfinished or not what their
    manifest says, or whose files would lie outside of that folder, and what `publish` raises.
    """
    place = Place(address)
    folder = (cache or default_cache() / "shards") / sha256_bytes(address.rstrip("/").encode())[:16]
    with place.explained("read"), alone(folder):
        data = place.read(MANIFEST_NAME)
        if data is None:
            raise ContractError(
                f"{address} has no {MANIFEST_NAME}: no finished shards there. "
                "Write them with `pipeline shard --out`."
            )
        source = f"{address}/{MANIFEST_NAME}"
        manifest = parse_manifest(data, source, CONTRACT)
        _check_paths(folder, manifest, source)
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        _download(folder, place, manifest, progress)
        write_bytes(folder / MANIFEST_NAME, data)
    return folder


def _check_paths(folder: Path, manifest: Manifest, source: str) -> None:
    """Raise ContractError for files that can't all lie in `folder`, before any is written."""
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


def _upload(folder: Path, place: Place, entries: list[FileEntry], progress: Progress) -> None:
    """Upload shards side by side, then the index, then the manifest."""
    total, sent = sum(entry.bytes for entry in entries), 0

    def put(entry: FileEntry) -> int:
        place.put(folder / entry.path, entry.path)
        return entry.bytes

    for turn in range(3):
        these = [entry for entry in entries if _LAST.get(entry.path, 0) == turn]
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            for size in threads.map(put, these):
                sent += size
                progress(sent, total, {"uploading": place.address})


def _download(folder: Path, place: Place, manifest: Manifest, progress: Progress) -> None:
    total, received = sum(entry.bytes for entry in manifest.files), 0

    def get(entry: FileEntry) -> int:
        path = folder / entry.path
        if not (path.is_file() and path.stat().st_size == entry.bytes) or (
            sha256_file(path) != entry.sha256
        ):
            _download_file(place, entry, path)
        return entry.bytes

    with ThreadPoolExecutor(_TRANSFERS) as threads:
        for size in threads.map(get, manifest.files):
            received += size
            progress(received, total, {"from": place.address})


def _download_file(place: Place, entry: FileEntry, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for chunk in place.chunks(entry.path, entry.bytes):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ContractError(
                f"{place.address}/{entry.path} is not the file that its manifest describes (sha256 "
                "differs). Write it again with `pipeline shard --out`."
            )
