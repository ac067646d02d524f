"""`pipeline upload` and `pipeline download`: a copy of the whole workspace on an object store.

The copy has the same files, byte for byte, beside a `manifest.json` with their hashes. It has a history, the
workspace's `runs.jsonl`: only a workspace that goes on from the copy's last run may replace it, so that what
another machine has done since is not lost.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pipeline.app.run_all import Call
from pipeline.app.run_log import (
    ACTIVE_NAME,
    RUNS_NAME,
    describe_holder,
    hold_workspace,
    keep_record,
)
from pipeline.core.config import StageConfig, option
from pipeline.core.contracts import Contract, FileEntry, Manifest, StageReport
from pipeline.core.errors import StorageError, WorkspaceError
from pipeline.core.estimate import check_room
from pipeline.core.inventory import find_folders
from pipeline.core.locks import LOCKS_NAME, WHOLE_WORKSPACE, hold_folders
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.ownership import checked_relative, delete_files, path_inside
from pipeline.core.parsing import parse_dataclass, parse_json, parse_json_file
from pipeline.core.progress import Progress
from pipeline.core.remote_copy import check_names, check_paths, download, upload
from pipeline.core.remote_folder import RemoteFolder, RemoteKind
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import (
    MANIFEST_NAME,
    UNFINISHED_NAME,
    file_entry,
    parse_manifest,
    sha256_bytes,
    sha256_file,
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
_OF_PROCESSES = (LOCKS_NAME, ACTIVE_NAME)
_BEGUN = {
    LOCKS_NAME,
    UNFINISHED_NAME + TEMPORARY_SUFFIX,
}  # what a download leaves that was killed at once


@dataclass(frozen=True, kw_only=True)
class UploadConfig(StageConfig):
    """The workspace to copy, and where to."""

    url: str = option("", f"Where to: {_URL}", metavar="URL")
    replace: bool = option(
        False,
        "Replace the copy even if it is of another workspace, has other runs, or has stages that are not in "
        "this one.",
    )


@dataclass(frozen=True, kw_only=True)
class DownloadConfig(StageConfig):
    """The copy of a workspace, and the new folder for it."""

    url: str = option("", f"Where `pipeline upload` wrote it: {_URL}", metavar="URL")
    force: bool = option(False, "Start even if the disk is too small.")


@dataclass(frozen=True, kw_only=True)
class _History:
    """The runs of a workspace, the size and the hash of its `runs.jsonl`, and the folders of its stages."""

    bytes: int
    sha256: str
    stages: tuple[str, ...]


# --- Upload ----------------------------------------------------------------------------------------


def upload_workspace(config: UploadConfig, call: Call) -> StageReport:
    """Make the copy at the URL match the workspace; only changed files are sent.

    Raises LockedError while a command works in the workspace; WorkspaceError if the URL holds something
    else, or a copy that this workspace doesn't continue; StorageError if the store fails or a file changes
    meanwhile.
    """
    root = Workspace(config.workspace).open().root
    remote = RemoteFolder(config.url, _KIND)

    def check_continues(files: Iterable[str] | None = None) -> None:
        with remote.explained("read"):
            remote.find_claim()  # raises for anything but a copy
            if not config.replace:
                _check_history(remote, root, files)

    if os.access(root, os.W_OK) and not _runs(root):
        # Without a run, nothing would tell this workspace from another one.
        with keep_record(root, "pipeline upload", clock=call.clock) as record:
            record.by = record.by or f"upload {uuid.uuid4()}"
    with (
        _unchanged(root, call),
        tempfile.TemporaryDirectory() as scratch,
        call.screen.progress("upload") as progress,
    ):
        check_continues()
        files = dict(find_files(root, remote.local_root))
        check_continues(files)
        before = {name: _state(path) for name, path in files.items()}
        manifest = _describe(root, files, progress)
        write_manifest(Path(scratch), manifest)
        check_continues(files)  # hashing may have taken hours
        with remote.explained("write to"):
            sent = upload(
                remote,
                files | {MANIFEST_NAME: Path(scratch) / MANIFEST_NAME},
                manifest,
                progress,
                late=[_MARKER],
                note=manifest.details,
                check=functools.partial(_check_unchanged, root, remote.local_root, before),
            )
    counts = {"files": len(manifest.files), "bytes": sum(e.bytes for e in manifest.files)}
    counts |= {"uploaded": sent.uploaded, "present": sent.present, "removed": sent.removed}
    return StageReport(
        stage="upload",
        outcome="done" if sent.uploaded or sent.removed else "unchanged",
        counts=counts,
        outputs=(config.url,),
    )


@contextlib.contextmanager
def _unchanged(root: Path, call: Call) -> Iterator[None]:
    """Keep commands from working in the workspace; in a read-only one, from writing to its folders."""
    folders = [folder.name for folder in find_folders(root)]
    describe = functools.partial(describe_holder, root)
    if not os.access(root, os.W_OK):
        with hold_folders(root, reads=(WHOLE_WORKSPACE, *folders), describe=describe):
            yield
        return
    with (
        hold_workspace(root, "pipeline upload", clock=call.clock),
        hold_folders(root, reads=folders, describe=describe),
    ):
        yield


def find_files(root: Path, target: Path | None = None) -> Iterator[tuple[str, Path]]:
    """The files of a workspace by their relative paths, with those behind links.

    Left out are `.locks`, `.active`, temporary files, and the memory that SQLite's processes share. Raises
    WorkspaceError for a link without a target, for a file in the place of the copy's own and if the folder
    `target`, where the copy is written, is in the workspace; ContractError for a path that can't be copied;
    OSError for a folder that can't be read.
    """
    copy = None if target is None else target.resolve()
    yield from _find_below(root, root, (), copy)


def _find_below(
    root: Path, place: Path, above: tuple[Path, ...], copy: Path | None
) -> Iterator[tuple[str, Path]]:
    real = place.resolve()
    if real in above:  # a link to a folder that it is in
        return
    if copy is not None and copy.is_relative_to(real):
        raise WorkspaceError(f"{copy} is in the workspace {root} itself. Give another URL.")
    for path in sorted(place.iterdir()):
        if place == root and path.name in _OF_PROCESSES:
            continue
        if path.is_dir():
            yield from _find_below(root, path, (*above, real), copy)
        elif not path.name.endswith((TEMPORARY_SUFFIX, ".sqlite-shm")):
            yield _checked(root, path), path


def _checked(root: Path, path: Path) -> str:
    name = checked_relative(path.relative_to(root).as_posix(), source=root)
    if not path.exists():
        raise WorkspaceError(
            f"{path} is a link whose target is missing. Remove it or restore the target."
        )
    if name in (MANIFEST_NAME, UNFINISHED_NAME):
        raise WorkspaceError(
            f"{path} is not a file of a workspace, and the copy needs the name. Move it away."
        )
    return name


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _check_unchanged(
    root: Path, target: Path | None, before: Mapping[str, tuple[int, int]]
) -> None:
    """Raise StorageError for a file that was changed, added or removed since."""
    now = {name: _state(path) for name, path in find_files(root, target)}
    for name in sorted(now.keys() | before.keys()):
        if now.get(name) != before.get(name):
            raise StorageError(
                f"{root / name} changed while it was copied. Run the same command again."
            )


def _describe(root: Path, files: Mapping[str, Path], progress: Progress) -> Manifest:
    """The manifest of the copy: every file with its hash, and the history."""
    total, done, entries = sum(path.stat().st_size for path in files.values()), 0, []
    for name, path in files.items():
        entry = file_entry(path, path.parent)
        entries.append(FileEntry(path=name, bytes=entry.bytes, sha256=entry.sha256))
        done += entry.bytes
        progress(done, total, {"hashing": name})
    runs = _runs(root)
    history = _History(bytes=len(runs), sha256=sha256_bytes(runs), stages=_stages(files))
    return Manifest(
        contract=_KIND.contract.name,
        version=_KIND.contract.version,
        config={},
        inputs={},
        counts={"files": len(entries)},
        files=tuple(entries),
        details={"history": asdict(history)},
    )


def _runs(root: Path) -> bytes:
    path = root / RUNS_NAME
    return path.read_bytes() if path.exists() else b""


def _stages(files: Iterable[str]) -> tuple[str, ...]:
    """The folders of stages that the files are in."""
    tops = {contract.top for contract in CONTRACTS.values()}
    return tuple(sorted(tops & {name.split("/")[0] for name in files}))


# --- What may be replaced --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Begun:
    """What the mark of an unfinished copy says of it."""

    history: _History


def _check_history(remote: RemoteFolder, root: Path, files: Iterable[str] | None) -> None:
    """Raise WorkspaceError unless the workspace goes on from the copy that is there, if any.

    With its `files`, also if there are none of a stage of the copy.
    """
    copied = _read_history(remote)
    if copied is None:
        return
    if not copied.bytes or sha256_bytes(_runs(root)[: copied.bytes]) != copied.sha256:
        raise WorkspaceError(
            f"{remote.url} holds a copy that {root} doesn't continue: of another workspace, or with runs of "
            "another machine. Nothing was touched: download it, give another URL, or replace it with "
            "--replace."
        )
    gone = set(copied.stages) - set(_stages(files)) if files is not None else set()
    if gone:
        raise WorkspaceError(
            f"{remote.url} has files in {', '.join(sorted(gone))}, and {root} has none there (any more). "
            "Nothing was touched: --replace removes them from the copy."
        )


def _read_history(remote: RemoteFolder) -> _History | None:
    """The history of the copy, of an unfinished one by its mark; None if there is no copy."""
    if (data := remote.read(MANIFEST_NAME)) is not None:
        source = f"{remote.url}/{MANIFEST_NAME}"
        details = parse_manifest(data, source, _KIND.contract).details
        return parse_dataclass(_Begun, details, source=source, field="details").history
    if (data := remote.read(UNFINISHED_NAME)) is not None:
        return parse_json(_Begun, data, source=f"{remote.url}/{UNFINISHED_NAME}").history
    return None


# --- Download --------------------------------------------------------------------------------------


def download_workspace(config: DownloadConfig, call: Call) -> StageReport:
    """Copy a workspace from a URL into a new folder; every hash is checked.

    If it is interrupted, the same command continues. Raises WorkspaceError for a folder with other content,
    ContractError for a copy that is unfinished or damaged, StorageError if the store fails.
    """
    root, remote = config.workspace, RemoteFolder(config.url, _KIND)
    Workspace(root).check_place()
    earlier = _find_earlier(root, config.url)
    with remote.explained("read"):
        _, manifest = remote.manifest()
    source = f"{config.url}/{MANIFEST_NAME}"
    check_names(manifest, source)
    root.mkdir(parents=True, exist_ok=True)
    with (
        hold_folders(root, writes=(WHOLE_WORKSPACE,)),
        call.screen.progress("download") as progress,
    ):
        files = {entry.path: entry.sha256 for entry in manifest.files}
        there = _hash_files(root, earlier, files)
        _mark(root, config.url, earlier | files)
        # Of a copy that has been replaced since.
        delete_files(root, [path for path in there if path not in files])
        check_paths(root, manifest, source)
        missing = [entry for entry in manifest.files if there.get(entry.path) != entry.sha256]
        check_room("download", root, sum(entry.bytes for entry in missing), force=config.force)
        fetched = download(remote, root, missing, progress)
        (root / UNFINISHED_NAME).unlink()
    Workspace(root).open()
    counts = {"files": len(manifest.files), "bytes": sum(e.bytes for e in manifest.files)}
    counts |= {"downloaded": fetched}
    return StageReport(stage="download", outcome="done", counts=counts, outputs=(str(root),))


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """The mark of an unfinished download, which is no workspace yet: its URL, and the hashes of its files."""

    contract: Literal["workspace"]
    url: str
    files: Mapping[str, str]


def _find_earlier(root: Path, url: str) -> dict[str, str]:
    """The files of an unfinished download of the URL, by their hashes; none for a new folder.

    Raises WorkspaceError for a folder that is neither.
    """
    path = root / UNFINISHED_NAME
    if os.path.lexists(path):
        mark = parse_json_file(path, _Mark, remedy="Give an empty or a new folder as --workspace.")
        if mark.url.rstrip("/") == url.rstrip("/"):
            return dict(mark.files)
        raise WorkspaceError(
            f"{root} is an unfinished download of {mark.url}. Give that URL, or another --workspace."
        )
    if os.path.lexists(root) and not (
        root.is_dir() and {path.name for path in root.iterdir()} <= _BEGUN
    ):
        raise WorkspaceError(
            f"{root} is not empty. Nothing was touched; give an empty or a new folder as --workspace."
        )
    return {}


def _mark(root: Path, url: str, files: Mapping[str, str]) -> None:
    write_json(root / UNFINISHED_NAME, asdict(_Mark(contract="workspace", url=url, files=files)))


def _hash_files(root: Path, earlier: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """The hashes of the files in the folder that the download has written or is going to write.

    Raises WorkspaceError for one that it has not written: it would be overwritten or removed.
    """
    found = {}
    for name in sorted({*earlier, *files}):
        path = (
            path_inside(root, name, source=root / UNFINISHED_NAME)
            if name in earlier
            else root / name
        )
        if not path.is_file():
            continue
        found[name] = sha256_file(path)
        if found[name] not in (earlier.get(name), files.get(name)):
            raise WorkspaceError(
                f"{path} was not downloaded and would be overwritten. Move it away, then run the same "
                "command again."
            )
    return found
