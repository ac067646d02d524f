"""A folder at an fsspec URL: its files by relative path, and whether it is ours.

Only regular files are read, never more bytes than allowed, and no path can leave the folder: anybody may have
written what is there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import Contract, FileEntry, Manifest
from pipeline.core.errors import (
    ConfigError,
    ContractError,
    PipelineError,
    StorageError,
    WorkspaceError,
)
from pipeline.core.extras import missing_store
from pipeline.core.ownership import checked_relative, delete_files, path_inside
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    atomic_write,
    parse_manifest,
    sha256_bytes,
    write_bytes,
)

MAX_SMALL_BYTES = 1 << 30  # of a manifest: with 250 bytes per file that is four million files
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The claim that marks a remote folder as ours.

    `finished` are the files of its manifest, `begun` those listed by the mark of an unfinished publication.
    """

    finished: dict[str, FileEntry]
    begun: frozenset[str]

    @property
    def own(self) -> frozenset[str]:
        """The paths that are ours."""
        return self.begun | self.finished.keys()


@dataclass(frozen=True, kw_only=True)
class RemoteKind:
    """What a remote folder holds: its contract, what messages call it, and the command that writes it."""

    contract: Contract
    noun: str
    command: str


class RemoteFolder:
    """A URL: its file system and the files below it."""

    def __init__(self, url: str, kind: RemoteKind) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.url, self.kind = url, kind
        if not url.strip():
            raise ConfigError("The URL is empty. Give one, such as s3://BUCKET/PREFIX.")
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise missing_store(url, error) from error
        except ValueError as error:
            raise ConfigError(f"{url} is not a URL that fsspec supports ({error}).") from error
        self._is_local = isinstance(self._fs, LocalFileSystem)
        self._fs.invalidate_cache()

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """Translate any error of the store into a StorageError."""
        try:
            yield
        except PipelineError:
            raise
        except Exception as error:  # every store has its own exceptions
            raise StorageError(
                f"Can't {doing} {self.url}: {type(error).__name__}: {error}. What was finished "
                "before is safe; run the same command again."
            ) from error

    @property
    def local_root(self) -> Path | None:
        """The folder itself if the URL is one of the local file system."""
        return Path(self._root) if self._is_local else None

    def manifest(self) -> tuple[bytes, Manifest]:
        """The manifest, as stored and parsed.

        Raises ContractError if there is none, or one of another kind or with paths outside the folder.
        """
        data = self.read(MANIFEST_NAME)
        if data is None:
            raise ContractError(
                f"{self.url} has no {MANIFEST_NAME}: there are no finished {self.kind.noun}. "
                f"Write them with `{self.kind.command}`."
            )
        return data, parse_manifest(data, f"{self.url}/{MANIFEST_NAME}", self.kind.contract)

    def find_claim(self) -> Claim:
        """Find out whether the folder is ours; an empty one is.

        Raises WorkspaceError if it holds files but neither a manifest of our kind nor our mark.
        """
        manifest, mark = self.read(MANIFEST_NAME), self.read(UNFINISHED_NAME)
        if manifest is None and mark is None and (other := self._first_entry()) is not None:
            raise WorkspaceError(
                f"{self.url} holds {other}, but neither a {MANIFEST_NAME} nor an {UNFINISHED_NAME} of "
                f"{self.kind.noun} that marks it as ours. Nothing was touched: give the URL of an empty "
                "folder."
            )
        return Claim(finished=self._manifest_entries(manifest), begun=self._marked(mark))

    def mark(self, files: Iterable[str], note: Mapping[str, Any] | None = None) -> None:
        """Mark the remote folder as ours and unfinished, list our files, and keep a note there."""
        facts = {
            **(note or {}),
            "contract": self.kind.contract.name,
            "version": self.kind.contract.version,
            "files": sorted(files),
        }
        target, data = self._full(UNFINISHED_NAME), json.dumps(facts).encode() + b"\n"
        if self._is_local:
            write_bytes(Path(target), data)
            return
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(target, data)

    def sizes(self) -> dict[str, int]:
        """The size of each file, by its relative path."""
        found = self._fs.find(self._root, detail=True)
        return {path[len(self._root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def holds(self, wanted: FileEntry, there: dict[str, int], known: dict[str, FileEntry]) -> bool:
        """Whether the file exists with the wanted bytes: by the remote manifest, or else by its hash."""
        if there.get(wanted.path) != wanted.bytes:
            return False
        if wanted.path in known:
            return known[wanted.path].sha256 == wanted.sha256
        digest = hashlib.sha256()
        for chunk in self.chunks(wanted.path, wanted.bytes):
            digest.update(chunk)
        return digest.hexdigest() == wanted.sha256

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file, None if there is none."""
        try:
            return b"".join(self.chunks(path, MAX_SMALL_BYTES))
        except FileNotFoundError:
            return None

    def chunks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """Read a regular file of at most `max_bytes` in chunks; FileNotFoundError if there is none.

        Raises ContractError for anything else.
        """
        info = self._fs.info(self._full(path))
        if info["type"] != "file":
            raise ContractError(f"{self.url}/{path} is {info['type']!r}, expected a regular file.")
        left = max_bytes - (info["size"] or 0)
        if left >= 0:
            left = max_bytes
            with self._fs.open(self._full(path), "rb") as file:
                while left >= 0 and (chunk := file.read(min(_CHUNK_BYTES, left + 1))):
                    left -= len(chunk)
                    yield chunk
        if left < 0:
            raise ContractError(
                f"{self.url}/{path} has more than the expected {max_bytes:,} bytes. Write it again with "
                f"`{self.kind.command}`."
            )

    def put(self, local: Path, path: str) -> None:
        """Upload a file, which appears only when complete."""
        target = self._full(path)
        if self._is_local:
            with local.open("rb") as source, atomic_write(Path(target)) as file:
                shutil.copyfileobj(source, file)
            return
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(local), target)

    def remove(self, path: str) -> None:
        """Remove a file, and on a disk the folders that are then empty."""
        target = self._full(path)
        if self._is_local:
            delete_files(Path(self._root), [path])
            return
        self._fs.rm_file(target)

    def _full(self, path: str) -> str:
        if self._is_local:
            return str(path_inside(Path(self._root), path, source=self.url))
        return f"{self._root.rstrip('/')}/{checked_relative(path, source=self.url)}"

    def _first_entry(self) -> str | None:
        """The first entry at the URL; the marker object of an empty folder does not count."""
        try:
            found = self._fs.ls(self._root, detail=True)
        except FileNotFoundError:
            return None
        names = [info["name"] for info in found if not self._is_empty_marker(info)]
        root = self._root.rstrip("/")
        return min(
            (n.removeprefix(root).strip("/") or "a file of that name" for n in names), default=None
        )

    def _is_empty_marker(self, info: dict[str, Any]) -> bool:
        return bool(info["name"].rstrip("/") == self._root.rstrip("/") and not info["size"])

    def _manifest_entries(self, data: bytes | None) -> dict[str, FileEntry]:
        """The files in the remote manifest, and the manifest itself."""
        if data is None:
            return {}
        source = f"{self.url}/{MANIFEST_NAME}"
        try:
            files = parse_manifest(data, source, self.kind.contract).files
        except ContractError as error:
            raise self._not_ours(MANIFEST_NAME, error) from error
        own = FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))
        return {checked_relative(e.path, source=source): e for e in (*files, own)}

    def _marked(self, data: bytes | None) -> frozenset[str]:
        """The files in the remote mark, and the mark itself."""
        if data is None:
            return frozenset()
        source = f"{self.url}/{UNFINISHED_NAME}"
        try:
            said: Any = json.loads(data)
            if said["contract"] != self.kind.contract.name:
                raise ValueError(f"it is of {said['contract']!r}")
            files = {checked_relative(path, source=source) for path in said["files"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._not_ours(UNFINISHED_NAME, error) from error
        return frozenset(files | {UNFINISHED_NAME})

    def _not_ours(self, name: str, error: Exception) -> WorkspaceError:
        return WorkspaceError(
            f"{self.url} holds a {name} that does not belong to {self.kind.noun} ({error}). Nothing was "
            "touched: give another URL."
        )
