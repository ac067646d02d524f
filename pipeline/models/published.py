"""Download published third-party files (weights, vocabularies) once into a cache, verified by hash.

Unlike `scrapers/`, which must be polite to many hosts, this makes one request for one file that the user
asked for. If no hash is published, the hash of the first download is logged and recorded beside the file,
and verified from then on.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.core.cache import default_cache, exclusive_lock
from pipeline.core.errors import ModelError
from pipeline.core.storage import atomic_write, sha256_file, write_bytes

log = logging.getLogger(__name__)

_TIMEOUT_S = 30.0  # without receiving a byte
_CHUNK_BYTES = 1 << 20
_RECORD = ".sha256"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A published file; `name` is its name in the cache, `sha256` is None if no hash is published."""

    name: str
    url: str
    sha256: str | None = None


def fetch_published(file: PublishedFile, cache: Path | None = None) -> Path:
    """The path of the file in the cache, downloaded if necessary.

    Raises ModelError if it can't be downloaded or its hash differs from the published or recorded one;
    StorageError if writing fails.
    """
    path = (cache or default_cache()) / file.name
    with exclusive_lock(path):
        if path.exists():
            _check(path, sha256_file(path), file.sha256 or _recorded(path))
        else:
            log.warning("Downloading %s from %s", file.name, file.url)
            _download(file, path)
    return path


def _download(file: PublishedFile, path: Path) -> None:
    try:
        with _request(file.url) as response, atomic_write(path) as target:
            found = _copy(response, target)
            _check(path, found, file.sha256)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(
            f"{file.name} can't be downloaded from {file.url} ({reason}). If that URL can't be reached from "
            f"here, download the file elsewhere and put it at {path}"
        ) from error
    if file.sha256 is None:
        write_bytes(path.with_name(path.name + _RECORD), f"{found}\n".encode())
        log.warning(
            "No hash of %s is published. The downloaded file has the sha256 %s, recorded in %s and verified "
            "from now on.",
            file.name,
            found,
            path.name + _RECORD,
        )


def _request(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "dalle-pipeline"})
    response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    if response.headers.get_content_type() == "text/html":  # an expired link
        response.close()
        raise http.client.HTTPException("the response is a web page, not the file")
    return response


def _copy(response: Any, target: IO[bytes]) -> str:
    """Write the response's body; returns its sha256."""
    digest = hashlib.sha256()
    for chunk in _chunks(response):
        target.write(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(response: Any) -> Iterator[bytes]:
    """The body in chunks; errors are raised as HTTPException, to tell them from the disk's."""
    read = 0
    try:
        while chunk := response.read(_CHUNK_BYTES):
            read += len(chunk)
            yield chunk
    except OSError as error:
        raise http.client.HTTPException(f"{error} after {read} bytes") from error
    promised = response.headers.get("Content-Length")
    if promised is not None and read != int(promised):
        raise http.client.HTTPException(f"the response ended after {read} of {promised} bytes")


def _check(path: Path, found: str, expected: str | None) -> None:
    if expected not in (None, found):
        raise ModelError(
            f"{path.name} has the sha256 {found}, expected {expected}. "
            f"Do not use it: delete {path}, if it exists, and try again."
        )


def _recorded(path: Path) -> str | None:
    record = path.with_name(path.name + _RECORD)
    return record.read_text().strip() if record.exists() else None
