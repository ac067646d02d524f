"""Files that others published, weights and vocabularies: fetched once into a cache, checked by hash.

Floor 3. The one place outside of `scrapers/` that speaks to the network: `scrapers/` asks strangers
for many things and has to be polite, this asks a publisher for one file that a user named, once.
Where no hash is published, that of the first download is written beside the file, told, and must hold
from then on.
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

_TIMEOUT_S = 30.0  # without a byte
_CHUNK_BYTES = 1 << 20
_RECORD = ".sha256"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file in the cache, and where it comes from; `sha256` is None where no hash is published."""

    name: str
    url: str
    sha256: str | None = None


def fetch_published(file: PublishedFile, cache: Path | None = None) -> Path:
    """The file in the cache, downloaded if it is not there.

    Raises ModelError where its hash is another than published or recorded, or it can't be fetched;
    StorageError where the disk refuses.
    """
    path = (cache or default_cache()) / file.name
    with exclusive_lock(path):
        if path.exists():
            _check(path, sha256_file(path), file.sha256 or _recorded(path))
        else:
            log.warning("Fetching %s from %s", file.name, file.url)
            _download(file, path)
    return path


def _download(file: PublishedFile, path: Path) -> None:
    try:
        with _ask(file.url) as answer, atomic_write(path) as target:
            found = _copy(answer, target)
            _check(path, found, file.sha256)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise ModelError(
            f"{file.name} can't be fetched from {file.url} ({reason}). Without a way to that address, "
            f"bring the file by hand and put it there: {path}"
        ) from error
    if file.sha256 is None:
        write_bytes(path.with_name(path.name + _RECORD), f"{found}\n".encode())
        log.warning(
            "No hash of %s is published. This one has the sha256 %s, which is written down in %s; "
            "the file must keep it.",
            file.name,
            found,
            path.name + _RECORD,
        )


def _ask(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "dalle-pipeline"})
    answer = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    if answer.headers.get_content_type() == "text/html":  # where a link has expired
        answer.close()
        raise http.client.HTTPException("the answer is a web page, not the file")
    return answer


def _copy(answer: Any, target: IO[bytes]) -> str:
    """Write the answer's body; returns its sha256."""
    digest = hashlib.sha256()
    for chunk in _chunks(answer):
        target.write(chunk)
        digest.update(chunk)
    return digest.hexdigest()


def _chunks(answer: Any) -> Iterator[bytes]:
    """The body, some of it at a time; what breaks here is the network's fault and not the disk's."""
    read = 0
    try:
        while chunk := answer.read(_CHUNK_BYTES):
            read += len(chunk)
            yield chunk
    except OSError as error:
        raise http.client.HTTPException(f"{error} after {read} bytes") from error
    promised = answer.headers.get("Content-Length")
    if promised is not None and read != int(promised):
        raise http.client.HTTPException(f"the answer ended after {read} of {promised} bytes")


def _check(path: Path, found: str, expected: str | None) -> None:
    if expected not in (None, found):
        raise ModelError(
            f"{path.name} has the sha256 {found}, expected {expected}. "
            f"If {path} is there, delete it and try again; do not use it."
        )


def _recorded(path: Path) -> str | None:
    record = path.with_name(path.name + _RECORD)
    return record.read_text().strip() if record.exists() else None
