"""Shards at another address: copied to an object store, and brought back from one.

An address is what fsspec knows: `s3://bucket/prefix`, `gs://…`, `memory://…`; credentials and
endpoints come from where its libraries look for them (AWS_ENDPOINT_URL…). There stand the same files
as in the folder, byte for byte. The manifest is what a reader begins with and comes last, just after
the index; it goes first where a file that it names is about to change.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cache import alone, default_cache
from pipeline.contracts import FileEntry, Manifest
from pipeline.errors import ConfigError, ContractError, DependencyError, PipelineError, StorageError
from pipeline.progress import Progress, no_progress
from pipeline.storage import (
    MANIFEST_NAME,
    atomic_write,
    parse_manifest,
    read_manifest,
    sha256_bytes,
    sha256_file,
    write_bytes,
)
from pipeline.webdata.index import INDEX_NAME
from pipeline.workspace import Workspace

_TRANSFERS = 4
_CHUNK_BYTES = 8 << 20
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
    """Make `address` hold just the files of the finished `folder`; uploads what differs.

    A file that stands there counts if the finished manifest beside it names it with the same hash, or
    else if its bytes have that hash. Raises StorageError where the store refuses, ConfigError for
    an address of an unknown kind, DependencyError where a package for it is missing.
    """
    place = _Place(address)
    with place.explained("write to"):
        manifest = read_manifest(folder, "shards")
        last = _own_entry(folder)
        wanted = {entry.path: entry for entry in (*manifest.files, last)}
        there = place.sizes()
        known = place.manifest_entries() if MANIFEST_NAME in there else {}
        missing = [e for e in wanted.values() if not place.holds(e, there, known)]
        if any(entry.path in there for entry in missing) and MANIFEST_NAME in there:
            place.remove(MANIFEST_NAME)
            missing = [*(e for e in missing if e.path != MANIFEST_NAME), last]
        _upload(folder, place, missing, progress)
        others = sorted(there.keys() - wanted.keys())
        for path in others:
            place.remove(path)
    return Published(uploaded=len(missing), present=len(wanted) - len(missing), removed=len(others))


def find_shards(workspace: Workspace, place: str) -> Path:
    """The folder of shards: `place` is a name in the workspace, or an address to bring them from."""
    return bring(place) if is_address(place) else workspace.shards(place)


def bring(address: str, cache: Path | None = None, progress: Progress = no_progress) -> Path:
    """A folder of this machine with the shards of `address`, every file's hash checked.

    What is there already stays. `cache` holds a folder for each address (default: dalle-pipeline in
    the user's cache folder). Raises ContractError for shards that are unfinished or not what their
    manifest says, and what `publish` raises.
    """
    place = _Place(address)
    folder = (cache or default_cache() / "shards") / sha256_bytes(address.rstrip("/").encode())[:16]
    with place.explained("read"), alone(folder):
        data = place.read(MANIFEST_NAME)
        if data is None:
            raise ContractError(
                f"{address} has no {MANIFEST_NAME}: no finished shards there. "
                "Write them with `pipeline shard --out`."
            )
        manifest = parse_manifest(data, f"{address}/{MANIFEST_NAME}", "shards")
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        _download(folder, place, manifest, progress)
        write_bytes(folder / MANIFEST_NAME, data)
    return folder


class _Place:
    """An address: its file system and the files below it."""

    def __init__(self, address: str) -> None:
        import fsspec

        self.address = address
        try:
            self._fs, self._root = fsspec.core.url_to_fs(address)
        except ImportError as error:
            kind = address.partition("://")[0]
            raise DependencyError(
                f"{address} needs a package that is not installed ({error}). "
                f"Install it with: pip install 'dalle-pipeline[{'gcs' if kind == 'gs' else kind}]'."
            ) from error
        except ValueError as error:
            raise ConfigError(f"{address} is no address that fsspec knows ({error}).") from error
        self._fs.invalidate_cache()

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Say in a sentence what the store refused."""
        try:
            yield
        except PipelineError:
            raise
        except Exception as error:  # every store has exceptions of its own
            raise StorageError(
                f"Can't {doing} {self.address}: {type(error).__name__}: {error}. What was finished "
                "before is safe; give the same command again."
            ) from error

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by its path below the address."""
        found = self._fs.find(self._root, detail=True)
        return {path[len(self._root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def manifest_entries(self) -> dict[str, FileEntry]:
        """The files that the finished manifest there names, with itself; none if it can't be read."""
        data = self.read(MANIFEST_NAME) or b""
        try:
            manifest = parse_manifest(data, self.address, "shards")
        except ContractError:
            return {}
        own = FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))
        return {entry.path: entry for entry in (*manifest.files, own)}

    def holds(self, wanted: FileEntry, there: dict[str, int], known: dict[str, FileEntry]) -> bool:
        """Whether the file stands there with the wanted bytes."""
        if there.get(wanted.path) != wanted.bytes:
            return False
        if wanted.path in known:
            return known[wanted.path].sha256 == wanted.sha256
        return self._hash(wanted.path) == wanted.sha256

    def _hash(self, path: str) -> str:
        with self._fs.open(self._full(path), "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file, None where there is none."""
        try:
            data: bytes = self._fs.cat_file(self._full(path))
        except FileNotFoundError:
            return None
        return data

    def open(self, path: str) -> Any:
        """A file to read from."""
        return self._fs.open(self._full(path), "rb")

    def put(self, local: Path, path: str) -> None:
        """Upload a file; an object store shows it when it is whole."""
        target = self._full(path)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(local), target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._fs.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}"


def _own_entry(folder: Path) -> FileEntry:
    data = (folder / MANIFEST_NAME).read_bytes()
    return FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))


def _upload(folder: Path, place: _Place, entries: list[FileEntry], progress: Progress) -> None:
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


def _download(folder: Path, place: _Place, manifest: Manifest, progress: Progress) -> None:
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


def _download_file(place: _Place, entry: FileEntry, path: Path) -> None:
    digest = hashlib.sha256()
    with place.open(entry.path) as source, atomic_write(path) as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ContractError(
                f"{place.address}/{entry.path} is not the file that its manifest describes (sha256 "
                "differs). Write it again with `pipeline shard --out`."
            )
