"""Read `torch.save` files without executing code from them, in no more memory than their size.

Formats (torch/serialization.py): since torch 1.6 a zip with uncompressed members `data.pkl` and `data/KEY`;
before that, five consecutive pickles followed by the storages. Tensors are views of the memory-mapped file:
what is not used is not read.
"""

from __future__ import annotations

import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.errors import ModelError
from pipeline.models.torch_pickle import (
    Placeholder,
    RefusedNamesError,
    StorageType,
    StoredBytes,
    unpickle,
)

__all__ = ["Placeholder", "check_regular", "read_torch_file", "tensors_of"]

_ZIP_BEGINS = b"PK\x03\x04"
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the end of an old file's first pickle
_BEGINNING_BYTES = 32
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1


def read_torch_file(path: Path) -> Any:
    """The object that `torch.save` wrote to `path`, with tensors on the CPU.

    Objects of known libraries become `Placeholder`s. Raises ModelError for a file that can't be read, is
    damaged or compressed, or names anything but tensors and these; none of its code is run.
    """
    check_regular(path)
    try:
        with path.open("rb") as file:
            if not path.stat().st_size:
                raise ValueError("it is empty")
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        return _read(path, content)
    except RefusedNamesError as error:
        names = ", ".join(str(name)[:80] for name in error.names[:5])
        raise ModelError(
            f"{path} is refused: its pickle refers to {names}, but only tensors are read from such a file. "
            "None of its code was run. Give a file from a source you trust."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle or archive can raise any kind
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ModelError(
            f"{path} can't be read as a torch.save file: {reason}. Expected an intact one; copy it again, "
            "or give another."
        ) from error


def check_regular(path: Path) -> None:
    """Raise ModelError unless the path is a regular file, not a folder, pipe or device."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{path} can't be read: {reason}. Give a file.") from error
    if not path.is_file():
        kind = "a folder" if path.is_dir() else f"not a regular file (mode {found.st_mode:o})"
        raise ModelError(f"{path} can't be read: it is {kind}. Give a file.")


def tensors_of(module: Placeholder) -> dict[str, Tensor]:
    """The parameters and buffers of a pickled module, by their dotted names.

    Raises ModelError if the placeholder, or one inside it, is not a module's.
    """
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, placeholder = waiting.pop()
        own, children = _module_state(placeholder, prefix)
        tensors |= {prefix + name: t.detach() for name, t in own.items() if isinstance(t, Tensor)}
        for name, child in children.items():
            if isinstance(child, Placeholder) and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))
    return tensors


def _module_state(
    placeholder: Placeholder, prefix: str
) -> tuple[dict[str, Any], Mapping[str, Any]]:
    state = placeholder.state if isinstance(placeholder.state, Mapping) else {}
    parts = [state.get(key) or {} for key in ("_parameters", "_buffers", "_modules")]
    if "_modules" not in state or not all(isinstance(part, Mapping) for part in parts):
        raise ModelError(
            f"The pickled object {prefix or '(root)'} is not a torch module. Give a file with a whole module."
        )
    return {**parts[0], **parts[1]}, parts[2]


def _read(path: Path, content: mmap.mmap) -> Any:
    begins = content[:_BEGINNING_BYTES]
    if begins.startswith(_ZIP_BEGINS):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is truncated, the end of its archive is missing")
        return _read_zip(path, content)
    if _MAGIC not in begins:
        raise ValueError(
            f"it starts with {begins[:12]!r}, which is neither a zip nor torch's magic number"
        )
    return _read_old(content)


# --- Since torch 1.6: a zip ----------------------------------------------------------------------


@dataclass
class _Archive:
    """The members of a zip as (start, size) in the file."""

    content: mmap.mmap
    members: Mapping[str, tuple[int, int]]
    prefix: str
    found: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    def data(self, name: str) -> bytes:
        start, size = self.members[self.prefix + name]
        return self.content[start : start + size]

    def find_storage(self, kind: StorageType, key: str, elements: int) -> StoredBytes:
        """The storage under `key`, created once."""
        name = f"{self.prefix}data/{key}"
        if name not in self.members:
            raise ValueError(f"it lacks its member {name[:80]!r}")
        start, size = self.members[name]
        if elements * kind.dtype.itemsize != size:
            raise ValueError(
                f"its member {name[:80]!r} has {size:,} bytes, but its pickle says {elements:,} elements of "
                f"{kind.dtype.itemsize} bytes"
            )
        if key not in self.found:
            self.found[key] = _storage_at(self.content, start, size)
        return StoredBytes(self.found[key], kind.dtype)


def _read_zip(path: Path, content: mmap.mmap) -> Any:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: _stretch(info, content) for info in archive.infolist()}
    if sum(size for _, size in members.values()) > len(content):
        raise ValueError("its members overlap")
    pickles = [n for n in members if n.rpartition("/")[2] == "data.pkl" and n.count("/") < 2]
    if len(pickles) != 1:
        raise ValueError("it is a zip without a data.pkl, or with several")
    opened = _Archive(content, members, prefix=pickles[0].removesuffix("data.pkl"))
    order = opened.data("byteorder") if f"{opened.prefix}byteorder" in members else b"little"
    if order != sys.byteorder.encode():
        raise ValueError(
            f"its numbers are {order[:8]!r}-endian, but this machine is {sys.byteorder}-endian"
        )
    return unpickle(io.BytesIO(opened.data("data.pkl")), opened.find_storage)


def _stretch(info: zipfile.ZipInfo, content: mmap.mmap) -> tuple[int, int]:
    """(start, size) of a member in the file. Raises ValueError if it is compressed or encrypted."""
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"its member {info.filename[:80]!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(
            f"its member {info.filename[:80]!r} is compressed (method {info.compress_type}), which "
            "torch.save never does"
        )
    header = content[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
    lengths = struct.unpack("<HH", header[26:30])  # of the name and of the extra field
    start = info.header_offset + _LOCAL_HEADER_BYTES
    name = content[start : start + lengths[0]].decode(errors="replace")
    if not header.startswith(_ZIP_BEGINS) or name != info.orig_filename:
        raise ValueError(f"its member {info.filename[:80]!r} is not where the archive says")
    start += sum(lengths)
    if start + info.file_size > len(content):
        raise ValueError(f"its member {info.filename[:80]!r} is truncated")
    return start, info.file_size


# --- Before torch 1.6: five pickles, then the storages -------------------------------------------


@dataclass
class _Promised:
    """The storages that the pickle refers to; their data follows it."""

    room: int
    storages: dict[str, StoredBytes] = field(default_factory=dict)

    def find_storage(self, kind: StorageType, key: str, elements: int) -> StoredBytes:
        """The storage under `key`, filled later."""
        if key not in self.storages:
            size = elements * kind.dtype.itemsize
            if not 0 <= size <= self.room:
                raise ValueError("its storages are larger than the file: it is truncated")
            self.room -= size
            self.storages[key] = StoredBytes(torch.UntypedStorage(size), kind.dtype)
        return self.storages[key]


def _read_old(content: mmap.mmap) -> Any:
    promised = _Promised(room=len(content))
    # magic number, version, machine, the object, the keys of its storages
    *_, machine, saved, keys = [unpickle(content, promised.find_storage) for _ in range(5)]  # type: ignore[arg-type]
    if isinstance(machine, dict) and not machine.get("little_endian", True):
        raise ValueError("its numbers are big-endian")
    for key in keys:
        stored = promised.storages[key]
        (elements,) = struct.unpack("<q", content.read(8))
        size = stored.storage.nbytes()
        if elements * stored.dtype.itemsize != size or content.tell() + size > len(content):
            raise ValueError("its storages are truncated")
        stored.storage.copy_(_storage_at(content, content.tell(), size))
        content.seek(size, 1)
    if set(keys) != set(promised.storages):
        raise ValueError("a storage is missing")
    return saved


def _storage_at(content: mmap.mmap, start: int, size: int) -> torch.UntypedStorage:
    """Part of the file as a storage; writes to it stay in memory (copy on write)."""
    if not size:
        return torch.UntypedStorage(0)
    return torch.frombuffer(content, dtype=torch.uint8, count=size, offset=start).untyped_storage()
