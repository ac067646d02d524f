"""Copy a folder to a URL and back: only what differs, every hash checked, the manifest last.

The remote folder holds the same files as the local one, byte for byte. A reader begins with the manifest,
which is uploaded last. New files come first; only before a file that the manifest names is replaced is the
manifest removed. Meanwhile `unfinished.json` lists our files: only these are replaced or removed. A folder
that holds other files but neither of the two is refused.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.core.contracts import FileEntry, Manifest
from pipeline.core.errors import ContractError, WorkspaceError
from pipeline.core.ownership import checked_relative, path_inside
from pipeline.core.parsing import read_small_file
from pipeline.core.progress import Progress
from pipeline.core.remote_folder import MAX_SMALL_BYTES, RemoteFolder
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    atomic_write,
    sha256_bytes,
    sha256_file,
)

_TRANSFERS = 4


@dataclass(frozen=True, kw_only=True)
class Published:
    """How many files were uploaded, were present already, and were removed."""

    uploaded: int
    present: int
    removed: int


def upload(
    remote: RemoteFolder,
    files: Mapping[str, Path],
    manifest: Manifest,
    progress: Progress,
    *,
    late: Sequence[str] = (),
    note: Mapping[str, Any] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Published:
    """Make the remote folder match `manifest`: upload what differs, remove our old files.

    `files` are the local files by their path in the manifest, and the manifest itself; those in `late` are
    uploaded after the others. `note` is kept in the mark of the unfinished copy; `check` is called before
    the manifest is uploaded, and may raise. A remote file is up to date if the finished manifest beside it
    lists it with the same hash, or else if its bytes have that hash. Raises WorkspaceError, before anything
    is written, if the remote folder holds files that aren't ours.
    """
    last = _own_entry(files[MANIFEST_NAME])
    wanted = {entry.path: entry for entry in (*manifest.files, last)}
    claim, there = remote.find_claim(), remote.sizes()
    missing = [e for e in wanted.values() if not remote.holds(e, there, claim.finished)]
    _refuse_strangers(remote, missing, there.keys() - claim.own)
    others = sorted((claim.own & there.keys()) - wanted.keys() - {UNFINISHED_NAME})
    if missing or others or claim.begun:
        remote.mark(claim.own | wanted.keys(), note)
        changed = [e for e in missing if e.path in claim.finished and e.path != MANIFEST_NAME]
        new = [entry for entry in missing if entry.path not in claim.finished]
        in_the_way = _find_in_the_way(others, [entry.path for entry in missing])
        sender = _Sender(remote, files, sum(entry.bytes for entry in missing), progress)
        if not in_the_way:
            sender.send([entry for entry in new if entry.path not in (*late, MANIFEST_NAME)])
        if (changed or in_the_way) and MANIFEST_NAME in there:
            remote.remove(MANIFEST_NAME)
            missing = [*(e for e in missing if e.path != MANIFEST_NAME), last]
        for path in in_the_way:
            remote.remove(path)
        if in_the_way:
            sender.send([entry for entry in new if entry.path not in (*late, MANIFEST_NAME)])
        sender.send([entry for entry in changed if entry.path not in late])
        for name in late:
            sender.send([entry for entry in missing if entry.path == name])
        check()
        sender.send([entry for entry in missing if entry.path == MANIFEST_NAME])
        for path in (*(p for p in others if p not in in_the_way), UNFINISHED_NAME):
            remote.remove(path)
    return Published(uploaded=len(missing), present=len(wanted) - len(missing), removed=len(others))


def check_paths(folder: Path, manifest: Manifest, source: str) -> None:
    """Raise ContractError for paths that collide or are outside `folder`, before any file is written."""
    check_names(manifest, source)
    for path in (*(entry.path for entry in manifest.files), MANIFEST_NAME, UNFINISHED_NAME):
        path_inside(folder, path, source=source)


def check_names(manifest: Manifest, source: str) -> None:
    """Raise ContractError for paths that are named twice, or are no relative paths."""
    times = Counter(entry.path for entry in manifest.files)
    times.update((MANIFEST_NAME, UNFINISHED_NAME))  # written beside them
    for path, count in times.items():
        checked_relative(path, source=source)
        if count > 1:
            raise ContractError(
                f"{source} names the file {path!r}, which would be written twice. Write it again from the "
                "intact files."
            )


def download(
    remote: RemoteFolder, folder: Path, entries: Sequence[FileEntry], progress: Progress
) -> int:
    """Download files that are not in `folder` yet, and return how many those were; every hash is checked.

    Raises ContractError for a file that differs from its entry.
    """
    total, received, fetched = sum(entry.bytes for entry in entries), 0, 0

    def get(entry: FileEntry) -> tuple[int, bool]:
        path = folder / entry.path
        is_there = (
            path.is_file()
            and path.stat().st_size == entry.bytes
            and sha256_file(path) == entry.sha256
        )
        if not is_there:
            _download_file(remote, entry, path)
        return entry.bytes, not is_there

    with ThreadPoolExecutor(_TRANSFERS) as threads:
        for size, is_new in threads.map(get, entries):
            received += size
            fetched += is_new
            progress(received, total, {"from": remote.url})
    return fetched


def _find_in_the_way(old: Iterable[str], new: Iterable[str]) -> list[str]:
    """Old files that are in the place of a new file's folder, or below the place of a new file."""
    new = set(new)
    folders = {parent for path in new for parent in _parents(path)}
    return [path for path in old if path in folders or not new.isdisjoint(_parents(path))]


def _parents(path: str) -> list[str]:
    return [parent.as_posix() for parent in PurePosixPath(path).parents]


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


def _own_entry(manifest: Path) -> FileEntry:
    data = read_small_file(manifest, max_bytes=MAX_SMALL_BYTES)
    return FileEntry(path=MANIFEST_NAME, bytes=len(data), sha256=sha256_bytes(data))


@dataclass
class _Sender:
    """Uploads files, several at once."""

    remote: RemoteFolder
    files: Mapping[str, Path]
    total: int
    progress: Progress
    sent: int = 0

    def send(self, entries: Sequence[FileEntry]) -> None:
        with ThreadPoolExecutor(_TRANSFERS) as threads:
            for size in threads.map(self._put, entries):
                self.sent += size
                self.progress(self.sent, self.total, {"uploading": self.remote.url})

    def _put(self, entry: FileEntry) -> int:
        self.remote.put(self.files[entry.path], entry.path)
        return entry.bytes


def _download_file(remote: RemoteFolder, entry: FileEntry, path: Path) -> None:
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for chunk in _read(remote, entry):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ContractError(
                f"{remote.url}/{entry.path} is not the file that its manifest describes (sha256 "
                f"differs). Remove it there, then write it again with `{remote.kind.command}`."
            )


def _read(remote: RemoteFolder, entry: FileEntry) -> Iterator[bytes]:
    """The bytes of a remote file; its errors don't count as errors of the local disk."""
    with remote.explained("read"):
        try:
            yield from remote.chunks(entry.path, entry.bytes)
        except FileNotFoundError as error:
            raise ContractError(
                f"{remote.url}/{entry.path} is missing, though its manifest names it. Write it again with "
                f"`{remote.kind.command}`."
            ) from error
