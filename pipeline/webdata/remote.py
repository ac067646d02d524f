"""Remote shards: publish them to an object store, and download them from one.

A URL is anything that fsspec supports: `s3://bucket/prefix`, `gs://…`, `memory://…`; credentials and
endpoints come from where its libraries look for them (AWS_ENDPOINT_URL…). How a folder is copied, and what at
the URL is ours, see `pipeline.core.remote_copy`.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.core.cache import default_cache, exclusive_lock
from pipeline.core.progress import Progress, no_progress
from pipeline.core.remote_copy import Published, check_paths, download, upload
from pipeline.core.remote_folder import RemoteFolder, RemoteKind
from pipeline.core.stages import CONTRACTS
from pipeline.core.storage import MANIFEST_NAME, read_manifest, sha256_bytes, write_bytes
from pipeline.core.workspace import Workspace
from pipeline.webdata.index import INDEX_NAME


def is_url(place: str) -> bool:
    """Whether `place` is a URL for fsspec, not a local path."""
    return "://" in place


def remote_shards(url: str) -> RemoteFolder:
    """The folder of shards at a URL. Raises ConfigError or DependencyError if it can't be used."""
    kind = RemoteKind(
        contract=CONTRACTS["shards"], noun="shards", command="pipeline shard --out URL"
    )
    return RemoteFolder(url, kind)


def publish(folder: Path, url: str, progress: Progress = no_progress) -> Published:
    """Make the remote folder at `url` match the finished `folder`, the index just before the manifest.

    Raises WorkspaceError, before anything is written, if the remote folder holds files that aren't ours;
    StorageError if the store fails, ConfigError for an unsupported URL, DependencyError if a package for it
    is missing.
    """
    remote = remote_shards(url)
    with remote.explained("write to"):
        manifest = read_manifest(folder, "shards")
        names = [*(entry.path for entry in manifest.files), MANIFEST_NAME]
        files = {name: folder / name for name in names}
        return upload(remote, files, manifest, progress, late=[INDEX_NAME])


def find_shards(workspace: Workspace, place: str) -> Path:
    """The folder of shards: `place` is a name in the workspace, or a URL to download them from."""
    return download_shards(place) if is_url(place) else workspace.shards(place, option="--shards")


def download_shards(url: str, cache: Path | None = None, progress: Progress = no_progress) -> Path:
    """A local folder with the shards of `url`; the hash of every file is checked.

    Files that are already present are kept. `cache` holds one folder per URL (default: dalle-pipeline in the
    user's cache folder). Raises ContractError for shards that are unfinished, differ from their manifest, or
    have paths outside that folder, and the errors of `publish`.
    """
    remote = remote_shards(url)
    folder = (cache or default_cache() / "shards") / sha256_bytes(url.rstrip("/").encode())[:16]
    with remote.explained("read"), exclusive_lock(folder):
        data, manifest = remote.manifest()
        check_paths(folder, manifest, f"{url}/{MANIFEST_NAME}")
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        download(remote, folder, manifest.files, progress)
        write_bytes(folder / MANIFEST_NAME, data)
    return folder
