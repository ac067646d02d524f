"""The lists that the command line names → their files: paths, folders, globs, any URL that fsspec knows."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.core.errors import ConfigError, PipelineError, SourceError
from pipeline.core.extras import missing_store
from pipeline.core.storage import sha256_file
from scrapers.fetch.page_urls import without_credentials

COMPRESSIONS = (".gz", ".bz2", ".zst")
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".txt": "txt",
}
# What a store says of a file that changes with its content.
_MARKS = ("ETag", "etag", "md5Hash", "checksum", "blob_id", "LastModified", "mtime", "created")


@dataclass(frozen=True, kw_only=True)
class ListFile:
    """A file of a list. `section` is the list's name; `format` is None if its name doesn't say."""

    path: str
    section: str
    store: Any
    size: int
    mtime: float | None

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return PurePosixPath(self.path).name

    @property
    def format(self) -> str | None:
        """The format by the file's suffix, compressed or not."""
        return FORMATS.get(_suffix(self.path))

    @property
    def is_local(self) -> bool:
        """Whether the file is on this machine's disks."""
        return isinstance(self.store, LocalFileSystem)

    def has_changed(self) -> bool:
        """Whether a local file was written to since it was found."""
        try:
            found = Path(self.path).stat() if self.is_local else None
        except OSError:
            return True
        return found is not None and (found.st_size, found.st_mtime) != (self.size, self.mtime)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of a local file's bytes; of a remote one, of what its store says of its version."""
        if self.is_local:
            return sha256_file(Path(self.path))
        info = self.store.info(self.path)
        facts = {name: str(info[name]) for name in _MARKS if info.get(name) is not None}
        text = json.dumps({"size": self.size, **facts}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def find_list_files(inputs: Sequence[str]) -> tuple[ListFile, ...]:
    """The files of all lists, each list's sorted by path.

    Raises ConfigError if nothing is at a path, or if a folder holds lists of several formats.
    """
    if not inputs:
        raise ConfigError(
            "The source urls needs lists: pipeline scrape urls LIST…, each a CSV, TSV, JSON, JSONL, Parquet "
            "or txt file, a folder or glob of them, or a URL such as s3://bucket/list.parquet."
        )
    files = [file for given in inputs for file in _files_of(given)]
    seen: dict[tuple[str, str], ListFile] = {}
    for file in files:
        seen.setdefault((str(file.store.protocol), file.path), file)
    return tuple(seen.values())


def _files_of(given: str) -> Iterator[ListFile]:
    shown = without_credentials(given)
    if not given.strip():
        raise ConfigError("A list is empty: give a file, a folder, a glob or a URL.")
    store, path = _open_store(given, shown)
    try:
        paths, section = _paths(store, path, shown)
        sizes = [int(store.size(each) or 0) for each in paths]
        mtimes = [_mtime(store, each) for each in paths]
    except FileNotFoundError as error:
        raise ConfigError(f"There is no list at {shown}. Check the path.") from error
    except PipelineError:
        raise
    except Exception as error:  # each store has errors of its own
        if not isinstance(error, OSError) and isinstance(store, LocalFileSystem):
            raise
        raise SourceError(f"The list {shown} can't be read: {error}.") from error
    for each, size, mtime in zip(paths, sizes, mtimes, strict=True):
        yield ListFile(path=each, section=section, store=store, size=size, mtime=mtime)


def _mtime(store: Any, path: str) -> float | None:
    """When a local file was changed last; None for others."""
    return Path(path).stat().st_mtime if isinstance(store, LocalFileSystem) else None


def _open_store(given: str, shown: str) -> tuple[Any, str]:
    try:
        store, path = fsspec.core.url_to_fs(os.path.expanduser(given))  # noqa: PTH111
    except ImportError as error:
        raise missing_store(shown, error) from error
    except (ValueError, OSError) as error:
        raise ConfigError(f"{shown} is not a place to read from: {error}.") from error
    store.invalidate_cache()
    return store, str(path)


def _paths(store: Any, path: str, shown: str) -> tuple[list[str], str]:
    """The files at a path and the name of their list."""
    kind = None
    with contextlib.suppress(FileNotFoundError):
        kind = store.info(path)["type"]  # unlike `isfile` it doesn't take each error for an absence
    if kind == "file":
        return [path], _stem(path)
    if kind == "directory":
        entries = store.ls(path, detail=True)
        # A link to a file is "other" in a listing.
        files = [e["name"] for e in entries if e["type"] != "directory" and store.isfile(e["name"])]
        return _lists_in(files, shown), PurePosixPath(path).name or "list"
    if any(mark in path for mark in "*?["):
        folder = path[: next(i for i, char in enumerate(path) if char in "*?[")].rpartition("/")[0]
        found = [each for each in store.glob(path) if not _is_hidden(each) and store.isfile(each)]
        if found:
            name = _stem(found[0]) if len(found) == 1 else PurePosixPath(folder).name
            return sorted(found), name or "list"
    raise FileNotFoundError(path)


def _lists_in(paths: Sequence[str], shown: str) -> list[str]:
    """The lists in a folder, without hidden files; folders in it are not entered."""
    lists = [path for path in sorted(paths) if _suffix(path) in FORMATS and not _is_hidden(path)]
    formats = sorted({FORMATS[_suffix(path)] for path in lists})
    if len(formats) > 1:
        raise ConfigError(
            f"{shown} holds lists of several formats ({', '.join(formats)}). Give a glob, such as "
            f"'{shown.rstrip('/')}/*.{formats[0]}'."
        )
    if not lists:
        raise ConfigError(
            f"{shown} holds no list: no file in it ends in {', '.join(FORMATS)} (or one of these + .gz). For "
            f"lists in folders below it give a glob, such as '{shown.rstrip('/')}/**/*.parquet'."
        )
    return lists


def _is_hidden(path: str) -> bool:
    return PurePosixPath(path).name.startswith((".", "_"))


def _suffix(path: str) -> str:
    """The suffix that names the format, in lower case."""
    name = PurePosixPath(path)
    while name.suffix.lower() in COMPRESSIONS:
        name = name.with_suffix("")
    return name.suffix.lower()


def _stem(path: str) -> str:
    """A file's name without the suffixes of format and compression."""
    name = PurePosixPath(path).name
    lowered = name.lower()
    for suffix in (*COMPRESSIONS, *FORMATS):
        if lowered.endswith(suffix) and len(lowered) > len(suffix):
            name, lowered = name[: -len(suffix)], lowered[: -len(suffix)]
    return name
