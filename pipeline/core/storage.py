"""Reading and writing: atomic files, manifests, hashes, table schemas.

Everything is written to a temporary name in the same folder, flushed, synced and renamed; the manifest of a
stage is written last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import shlex
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from pipeline.core.contracts import Column, Contract, FileEntry, Manifest
from pipeline.core.errors import REPAIR, ContractError, StorageError
from pipeline.core.names import TEMPORARY_SUFFIX
from pipeline.core.parsing import parse_dataclass, parse_json, parse_json_file, read_small_file
from pipeline.core.stages import CONTRACTS

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")

MANIFEST_NAME = "manifest.json"
# The mark of a folder that a stage is writing (see `ownership`); the manifest replaces it.
UNFINISHED_NAME = "unfinished.json"


# --- Atomic files --------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open `path` for writing so that it appears complete or not at all.

    Raises StorageError if the disk is full or writing fails.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise storage_error(error, path) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, two spaces, a newline at the end."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The bytes that `write_json` writes."""
    return encode_json(value, indent=2, sort_keys=True)


def encode_json(value: Any, **options: Any) -> bytes:
    """JSON in UTF-8 with a newline; characters that UTF-8 can't encode (from other paths) are escaped."""
    text = json.dumps(value, ensure_ascii=False, **options) + "\n"
    return text.encode(
        errors="backslashreplace"
    )  # for a lone surrogate this equals JSON's own escape


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def known_error(error: BaseException) -> BaseException:
    """`error` itself, or one of our exceptions if the system refused something or memory ran out."""
    if isinstance(error, OSError):
        return storage_error(error, error.filename or "a file")
    if isinstance(error, MemoryError) or _is_of_memory(error):
        return StorageError(
            f"There is not enough memory for this ({error or 'an allocation failed'}). Use smaller values "
            "(batch, model), or a machine with more memory."
        )
    return error


def _is_of_memory(error: BaseException) -> bool:
    """Whether torch ran out of memory: on the CPU it has no exception class for that."""
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def storage_error(error: OSError, path: Path | str) -> StorageError:
    """Translate a system error."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk is full: no room to write {path}. What was finished before is safe; "
            "free some space and run the same command again."
        )
    return StorageError(f"Can't read or write {path}: {error.strerror or error}.")


# --- Hashes --------------------------------------------------------------------------------------


def sha256_bytes(data: bytes) -> str:
    """Hash of `data`, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hash of a file, 64 hex digits. Raises OSError unless it is a regular file: others may never end."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_entry(path: Path, root: Path, rows: int | None = None) -> FileEntry:
    """Describe a finished file for a manifest; its path is relative to `root`."""
    return FileEntry(
        path=path.relative_to(root).as_posix(),
        bytes=path.stat().st_size,
        sha256=sha256_file(path),
        rows=rows,
    )


# --- Manifests -----------------------------------------------------------------------------------


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Declare `folder` finished, and remove its mark of an unfinished folder.

    The manifest is written with a hash of itself, so that `verify` detects changes.
    """
    values = dataclasses.asdict(manifest)
    write_json(folder / MANIFEST_NAME, {**values, "sha256": manifest_seal(values)})
    (folder / UNFINISHED_NAME).unlink(missing_ok=True)


def manifest_seal(values: Mapping[str, Any]) -> str:
    """The hash that is written with a manifest, of all its values."""
    plain = json.loads(json.dumps(values))  # as it will be read: keys are text, tuples are lists
    return sha256_bytes(json.dumps(plain, sort_keys=True).encode())


def make_manifest(
    contract: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    counts: Mapping[str, int],
    files: tuple[FileEntry, ...],
    details: Mapping[str, Any] | None = None,
) -> Manifest:
    """Create a manifest of the current version of `contract`, with files sorted by path."""
    return Manifest(
        contract=contract,
        version=CONTRACTS[contract].version,
        config=config,
        inputs=inputs,
        counts=counts,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        details=details or {},
    )


def maker_of(folder: Path, contract: str) -> str:
    """The command that makes a folder of a contract, with the workspace that it is in."""
    root = folder
    for _ in Path(CONTRACTS[contract].place).parts:
        root = root.parent
    place = f" --workspace {shlex.quote(str(root))}" if (root / "workspace.json").exists() else ""
    return f"`pipeline {CONTRACTS[contract].maker}{place}`"


def read_manifest(folder: Path, contract: str) -> Manifest:
    """Read the manifest of a finished folder.

    Raises ContractError if there is none, if it is damaged, or if it has another contract or version.
    """
    path = folder / MANIFEST_NAME
    if not os.path.lexists(path):
        raise ContractError(
            f"{folder} has no {MANIFEST_NAME}: the stage that makes it has not finished. Run "
            f"{maker_of(folder, contract)} first."
        )
    return parse_manifest(read_small_file(path, remedy=REPAIR), str(path), CONTRACTS[contract])


def parse_manifest(data: bytes, path: str, contract: Contract) -> Manifest:
    """The manifest in `data`, read from `path`.

    Raises ContractError if it is not a manifest, or one of another contract or version.
    """
    try:
        manifest = parse_json(Manifest, data, source=path, remedy=REPAIR)
    except ContractError:  # Other versions may have other fields.
        _check_version(parse_json(ManifestHead, data, source=path, remedy=REPAIR), path, contract)
        raise
    _check_version(manifest, path, contract)
    return manifest


def _check_version(head: ManifestHead | Manifest, path: str, contract: Contract) -> None:
    if head.contract != contract.name or not contract.reads(head.version):
        raise ContractError(
            f"{path} holds contract {head.contract} version {head.version}, expected "
            f"{contract.name} version {contract.version}. Run the stage that makes it again with "
            "this version of the pipeline."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ManifestHead:
    """The fields by which a manifest of any version is recognised."""

    contract: str
    version: int


def read_detail(folder: Path, manifest: Manifest, name: str, cls: type[T]) -> T:
    """One of a manifest's `details` as an instance of `cls`; raises ContractError if it isn't one."""
    return parse_dataclass(
        cls,
        manifest.details.get(name),
        source=str(folder / MANIFEST_NAME),
        field=f"details.{name}",
        remedy=REPAIR,
    )


def input_digest(folder: Path) -> str:
    """The hash that identifies a finished folder as the input of a later stage: its content, 64 hex digits.

    It covers the contract and the path and hash of every file, but neither options nor inputs: if a stage is
    run again and makes the same files, later stages stay current. A manifest may have its own `content`
    digest: the raw store keeps images in the order in which they were fetched, so its files differ between
    two crawls of the same set.
    Raises ContractError if there is no manifest, or a damaged one.
    """
    manifest = parse_json_file(folder / MANIFEST_NAME, Manifest, remedy=REPAIR)
    own = manifest.details.get("content")
    if own is not None:
        return str(own)
    files = [[entry.path, entry.sha256] for entry in manifest.files]
    named = [manifest.contract, manifest.version, files]
    return sha256_bytes(json.dumps(named).encode())


def find_manifest(folder: Path, contract: str) -> Manifest | None:
    """The manifest of `folder`; None if it is unfinished, damaged, or of another contract or version."""
    try:
        return read_manifest(folder, contract)
    except ContractError:
        return None


def find_current(
    folder: Path, contract: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]
) -> Manifest | None:
    """The manifest of `folder` if it was made from exactly this config and these inputs, else None."""
    manifest = find_manifest(folder, contract)
    if manifest is None:
        return None
    same = dict(manifest.config) == dict(config) and dict(manifest.inputs) == dict(inputs)
    return manifest if same else None


# --- Tables --------------------------------------------------------------------------------------


def arrow_schema(columns: tuple[Column, ...]) -> pa.Schema:
    """The Arrow schema of a table of `contracts`, with each column's meaning in its metadata."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(c.name, pa.type_for_alias(c.type), metadata={"doc": c.doc})
            if not c.type.startswith("list<")
            else pa.field(
                c.name, pa.list_(pa.type_for_alias(c.type[5:-1])), metadata={"doc": c.doc}
            )
            for c in columns
        ]
    )


# Every page of our tables has a checksum, so that a table can be verified without its manifest.
TABLE_OPTIONS: Mapping[str, Any] = {"compression": "zstd", "write_page_checksum": True}
_CHECKSUMS = {b"page_checksums": b"crc32"}


def table_schema(
    columns: tuple[Column, ...], metadata: Mapping[bytes, bytes] | None = None
) -> pa.Schema:
    """The schema of a table that is written with `TABLE_OPTIONS`."""
    return arrow_schema(columns).with_metadata({**_CHECKSUMS, **(metadata or {})})


def has_checksums(schema: pa.Schema) -> bool:
    """Whether a table of this schema declares page checksums."""
    return (schema.metadata or {}).get(b"page_checksums") == _CHECKSUMS[b"page_checksums"]
