"""A folder at an address that fsspec knows: its files by their paths below it, and whose they are.

Nothing but regular files is read, no more of one than is allowed, and no path leads out of the address:
what is there may have been written by anybody.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.contracts import CONTRACTS, FileEntry
from pipeline.core.errors import (
    ConfigError,
    ContractError,
    DependencyError,
    PipelineError,
    StorageError,
    WorkspaceError,
)
from pipeline.core.ownership import checked_relative, path_inside
from pipeline.core.storage import MANIFEST_NAME, UNFINISHED_NAME, parse_manifest, sha256_bytes

CONTRACT = "shards"
MAX_SMALL_BYTES = 1 << 30  # of a manifest: at 250 bytes a file that is four million of them
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What says that a place is ours: `finished` has the files of its manifest, `begun` those of the mark
    that an unfinished publication leaves."""

    finished: dict[str, FileEntry]
    begun: frozenset[str]

    @property
    def own(self) -> frozenset[str]:
        """The files there that are ours, if they are there."""
        return self.begun | self.finished.keys()


class Place:
    """An address: its file system and the files below it."""

    def __init__(self, address: str) -> None:
        import fsspec
        from fsspec.implementations.local import LocalFileSystem

        self.address = address
        if not address.strip():
            raise ConfigError("The address is empty. Give one, such as s3://BUCKET/PREFIX.")
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
        self._is_local = isinstance(self._fs, LocalFileSystem)
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

    def find_claim(self) -> Claim:
        """Whose the place is; ours if nothing is there.

        Raises WorkspaceError where files are there and neither a manifest of shards nor our mark.
        """
        manifest, mark = self.read(MANIFEST_NAME), self.read(UNFINISHED_NAME)
        if manifest is None and mark is None and (other := self._first_entry()) is not None:
            raise WorkspaceError(
                f"{self.address} holds {other}, and neither a {MANIFEST_NAME} nor an {UNFINISHED_NAME} of "
                "shards that says it is ours. Nothing was touched: give an address where nothing is."
            )
        return Claim(finished=self._manifest_entries(manifest), begun=self._marked(mark))

    def mark(self, files: Iterable[str]) -> None:
        """Say at the address that it is ours and unfinished, and which files are."""
        facts = {
            "contract": CONTRACT,
            "version": CONTRACTS[CONTRACT].version,
            "files": sorted(files),
        }
        target = self._full(UNFINISHED_NAME)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(target, json.dumps(facts).encode() + b"\n")

    def sizes(self) -> dict[str, int]:
        """Bytes of each file, by its path below the address."""
        found = self._fs.find(self._root, detail=True)
        return {path[len(self._root) :].lstrip("/"): info["size"] for path, info in found.items()}

    def holds(self, wanted: FileEntry, there: dict[str, int], known: dict[str, FileEntry]) -> bool:
        """Whether the file is there with the wanted bytes: by the manifest beside it, else by its hash."""
        if there.get(wanted.path) != wanted.bytes:
            return False
        if wanted.path in known:
            return known[wanted.path].sha256 == wanted.sha256
        digest = hashlib.sha256()
        for chunk in self.chunks(wanted.path, wanted.bytes):
            digest.update(chunk)
        return digest.hexdigest() == wanted.sha256

    def read(self, path: str) -> bytes | None:
        """The bytes of a small file, None where there is none."""
        try:
            return b"".join(self.chunks(path, MAX_SMALL_BYTES))
        except FileNotFoundError:
            return None

    def chunks(self, path: str, max_bytes: int) -> Iterator[bytes]:
        """A regular file of at most `max_bytes`, some of it at a time; FileNotFoundError if it isn't there.

        Raises ContractError for anything else.
        """
        info = self._fs.info(self._full(path))
        if info["type"] != "file":
            raise ContractError(
                f"{self.address}/{path} is {info['type']!r}, expected a regular file."
            )
        left = max_bytes - (info["size"] or 0)
        if left >= 0:
            left = max_bytes
            with self._fs.open(self._full(path), "rb") as file:
                while left >= 0 and (chunk := file.read(min(_CHUNK_BYTES, left + 1))):
                    left -= len(chunk)
                    yield chunk
        if left < 0:
            raise ContractError(
                f"{self.address}/{path} has more than the {max_bytes:,} bytes that are expected."
            )

    def put(self, local: Path, path: str) -> None:
        """Upload a file; an object store shows it when it is whole."""
        target = self._full(path)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(local), target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._fs.rm_file(self._full(path))

    def _full(self, path: str) -> str:
        if self._is_local:
            return str(path_inside(Path(self._root), path, source=self.address))
        return f"{self._root.rstrip('/')}/{checked_relative(path, source=self.address)}"

    def _first_entry(self) -> str | None:
        """The first of what is at the address; the marker of an empty folder does not count."""
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
        """The files that the manifest there names, with itself."""
        if data is None:
            return {}
        source = f"{self.address}/{MANIFEST_NAME}"
        try:
            files = parse_manifest(data, source, CONTRACT).files
        except ContractError as error:
            raise self._not_ours(MANIFEST_NAME, error) from error
        own = FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))
        return {checked_relative(e.path, source=source): e for e in (*files, own)}

    def _marked(self, data: bytes | None) -> frozenset[str]:
        """The files that the mark there names, with itself."""
        if data is None:
            return frozenset()
        source = f"{self.address}/{UNFINISHED_NAME}"
        try:
            said: Any = json.loads(data)
            if said["contract"] != CONTRACT:
                raise ValueError(f"it is of {said['contract']!r}")
            files = {checked_relative(path, source=source) for path in said["files"]}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._not_ours(UNFINISHED_NAME, error) from error
        return frozenset(files | {UNFINISHED_NAME})

    def _not_ours(self, name: str, error: Exception) -> WorkspaceError:
        return WorkspaceError(
            f"{self.address} holds a {name} that is none of shards ({error}). Nothing was touched: give "
            "another address."
        )
