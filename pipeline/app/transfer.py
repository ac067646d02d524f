"""`pipeline upload` and `pipeline download`: a copy of the whole workspace on an object store.

The copy has the same files, byte for byte, beside a `manifest.json` with their hashes. It has a history, the
workspace's `runs.jsonl`: only a workspace that goes on from the copy's last run may replace it, so that what
another machine has done since is not lost.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.app.run_all import Call
from pipeline.app.run_log import RUNS_NAME, describe_holder
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import Contract, FileEntry, Manifest, StageReport
from pipeline.core.errors import StorageError, WorkspaceError
from pipeline.core.estimate import check_room
from pipeline.core.inventory import find_folders
from pipeline.core.locks import WHOLE_WORKSPACE, hold_folders
from pipeline.core.ownership import checked_relative, path_inside
from pipeline.core.parsing import parse_json_file
from pipeline.core.progress import Progress
from pipeline.core.remote_copy import check_paths, download, upload
from pipeline.core.remote_folder import RemoteFolder, RemoteKind
from pipeline.core.storage import (
    MANIFEST_NAME,
    TEMPORARY_SUFFIX,
    UNFINISHED_NAME,
    file_entry,
    read_detail,
    sha256_bytes,
    write_json,
    write_manifest,
)
from pipeline.core.workspace import Workspace

_URL = "s3://BUCKET/PREFIX (extra s3), gs://BUCKET/PREFIX (extra gcs) or any URL of fsspec's."
_KIND = RemoteKind(
    contract=Contract(name="workspace", version=1, maker="upload", place=".", own_files=".*"),
    noun="workspace files",
    command="pipeline upload URL",
)
_MARKER = "workspace.json"


@dataclass(frozen=True, kw_only=True)
class UploadConfig(StageConfig):
    """The workspace to copy, and where to."""

    url: str = option("", f"Where to: {_URL}", metavar="URL")
    replace: bool = option(
        False,
        "Replace the copy even if it is of another workspace or has later runs than this one.",
    )


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(StageConfig):
    """The copy of a workspace, and the new folder for it."""

    url: str = option("", f"Where `pipeline upload` wrote it: {_URL}", metavar="URL")
    force: bool = option(False, "Start even if the disk is too small.")


@dataclass(frozen=True, kw_only=True)
class _History:
    """The runs of a workspace: the size and the hash of its `runs.jsonl`."""

    bytes: int
    sha256: str


# --- Upload ----------------------------------------------------------------------------------------


def upload_workspace(config: UploadConfig, call: Call) -> StageReport:
    """Make the copy at the URL match the workspace; only changed files are sent.

    Raises LockedError while a command writes to the workspace; WorkspaceError if the URL holds something
    else, or a copy that this workspace doesn't continue; StorageError if the store fails or a file changes
    meanwhile.
    """
    root = Workspace(config.workspace).open().root
    remote = RemoteFolder(config.url, _KIND)
    _refuse_nested(remote, root)
    with (
        _unchanged(root),
        tempfile.TemporaryDirectory() as scratch,
        call.screen.progress("upload") as progress,
    ):
        if not config.replace:
            with remote.explained("read"):
                _check_history(remote, root)
        files = dict(find_files(root))
        before = {name: _state(path) for name, path in files.items()}
        manifest = _describe(root, files, progress)
        write_manifest(Path(scratch), manifest)
        local = files | {MANIFEST_NAME: Path(scratch) / MANIFEST_NAME}
        with remote.explained("write to"):
            sent = upload(remote, local, manifest, progress, late=[_MARKER])
        for name, path in files.items():
            if _state(path) != before[name]:
                raise StorageError(f"{path} changed while it was copied. Run the command again.")
    counts = {"files": len(manifest.files), "bytes": sum(e.bytes for e in manifest.files)}
    counts |= {"uploaded": sent.uploaded, "present": sent.present, "removed": sent.removed}
    return StageReport(
        stage="upload",
        outcome="done" if sent.uploaded or sent.removed else "unchanged",
        counts=counts,
        outputs=(config.url,),
    )


def _unchanged(root: Path) -> contextlib.AbstractContextManager[None]:
    """Keep commands from writing to the workspace; a read-only one needs no lock."""
    if not os.access(root, os.W_OK):
        return contextlib.nullcontext()
    folders = (WHOLE_WORKSPACE, *(folder.name for folder in find_folders(root)))
    return hold_folders(root, reads=folders, describe=functools.partial(describe_holder, root))


def find_files(root: Path) -> Iterator[tuple[str, Path]]:
    """The files of a workspace by their relative paths; those behind links, too.

    Left out are hidden files at the top (locks), temporary files, and the memory that SQLite's processes
    share. Raises WorkspaceError for a file in the place of the copy's own, ContractError for a path that
    can't be copied.
    """
    seen = set()
    for parent, folders, names in os.walk(root, followlinks=True):
        place = Path(parent)
        real = place.resolve()
        if real in seen:  # a loop of links
            folders.clear()
            continue
        seen.add(real)
        if place == root:
            folders[:] = [name for name in folders if not name.startswith(".")]
            names = [name for name in names if not name.startswith(".")]
        folders.sort()
        for name in sorted(names):
            if name.endswith((TEMPORARY_SUFFIX, ".sqlite-shm")):
                continue
            path = place / name
            relative = checked_relative(path.relative_to(root).as_posix(), source=root)
            if relative in (MANIFEST_NAME, UNFINISHED_NAME):
                raise WorkspaceError(
                    f"{path} is not a file of a workspace, and the copy needs the name. Move it away."
                )
            yield relative, path


def _refuse_nested(remote: RemoteFolder, root: Path) -> None:
    place = remote.local_root
    if place is not None and place.resolve().is_relative_to(root.resolve()):
        raise WorkspaceError(f"{remote.url} is in the workspace {root} itself. Give another URL.")


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _describe(root: Path, files: dict[str, Path], progress: Progress) -> Manifest:
    """The manifest of the copy: every file with its hash, and the history."""
    total, done, entries = sum(path.stat().st_size for path in files.values()), 0, []
    for name, path in files.items():
        entry = file_entry(path, path.parent)
        entries.append(FileEntry(path=name, bytes=entry.bytes, sha256=entry.sha256))
        done += entry.bytes
        progress(done, total, {"hashing": name})
    runs = root / RUNS_NAME
    data = runs.read_bytes() if RUNS_NAME in files else b""
    return Manifest(
        contract=_KIND.contract.name,
        version=_KIND.contract.version,
        config={},
        inputs={},
        counts={"files": len(entries)},
        files=tuple(entries),
        details={"history": {"bytes": len(data), "sha256": sha256_bytes(data)}},
    )


def _check_history(remote: RemoteFolder, root: Path) -> None:
    """Raise WorkspaceError unless the workspace goes on from the copy that is there, if any."""
    if remote.read(MANIFEST_NAME) is None:
        return
    _, manifest = remote.manifest()
    copied = read_detail(Path(remote.url), manifest, "history", _History)
    runs = root / RUNS_NAME
    data = runs.read_bytes() if runs.exists() else b""
    if hashlib.sha256(data[: copied.bytes]).hexdigest() != copied.sha256:
        raise WorkspaceError(
            f"{remote.url} holds a copy with runs that {root} doesn't have: another workspace, or one that "
            "another machine has worked on since. Nothing was touched: download it, give another URL, or "
            "replace it with --replace."
        )


# --- Download --------------------------------------------------------------------------------------


def download_workspace(config: DownloadConfig, call: Call) -> StageReport:
    """Copy a workspace from a URL into a new folder; every hash is checked.

    If it is interrupted, the same command continues. Raises WorkspaceError for a folder with other content,
    ContractError for a copy that is unfinished or damaged, StorageError if the store fails.
    """
    root, remote = config.workspace, RemoteFolder(config.url, _KIND)
    earlier = _begin(root, config.url)
    with (
        hold_folders(root, writes=(WHOLE_WORKSPACE,)),
        remote.explained("read"),
        call.screen.progress("download") as progress,
    ):
        _, manifest = remote.manifest()
        check_paths(root, manifest, f"{config.url}/{MANIFEST_NAME}")
        files = {entry.path: entry for entry in manifest.files}
        for path in earlier - files.keys():  # of a copy that has been replaced since
            path_inside(root, path, source=root / UNFINISHED_NAME).unlink(missing_ok=True)
        _mark(root, config.url, files)
        needed = sum(entry.bytes for entry in manifest.files if not (root / entry.path).exists())
        check_room("download", root, needed, force=config.force)
        marker = [files.pop(_MARKER)] if _MARKER in files else []
        fetched = sum(
            download(remote, root, each, progress) for each in ([*files.values()], marker)
        )
        (root / UNFINISHED_NAME).unlink()
    Workspace(root).open()
    counts = {"files": len(manifest.files), "bytes": sum(e.bytes for e in manifest.files)}
    counts |= {"downloaded": fetched}
    return StageReport(stage="download", outcome="done", counts=counts, outputs=(str(root),))


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The mark of an unfinished download: its URL, and the files that it writes."""

    contract: Literal["workspace"]
    url: str
    files: tuple[str, ...]


def _begin(root: Path, url: str) -> set[str]:
    """Mark the folder, which must be new, or an unfinished download of the URL, whose files are returned."""
    path = root / UNFINISHED_NAME
    if os.path.lexists(path):
        mark = parse_json_file(path, _Mark, remedy="Give an empty or a new folder as --workspace.")
        if mark.url == url:
            return set(mark.files)
        raise WorkspaceError(
            f"{root} is an unfinished download of {mark.url}. Give that URL, or another --workspace."
        )
    if os.path.lexists(root) and (not root.is_dir() or any(root.iterdir())):
        raise WorkspaceError(
            f"{root} is not empty. Nothing was touched; give an empty or a new folder as --workspace."
        )
    _mark(root, url, ())
    return set()


def _mark(root: Path, url: str, files: Iterable[str]) -> None:
    mark = _Mark(contract="workspace", url=url, files=tuple(files))
    write_json(root / UNFINISHED_NAME, asdict(mark))
