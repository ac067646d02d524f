"""Read files of `torch.save` without running what they hold, and in no more memory than they have bytes.

Layer 3. Formats (torch/serialization.py): the zip of torch ≥ 1.6, whose members `data.pkl` and `data/KEY`
are stored as they are, and the five pickles in a row before it, with the storages behind them. Tensors are
views of the file, mapped into memory: what is not looked at is not read.
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
    Husk,
    RefusedNamesError,
    StorageType,
    StoredBytes,
    unpickle,
)

__all__ = ["Husk", "check_regular", "read_torch_file", "tensors_of"]

_ZIP_BEGINS = b"PK\x03\x04"
_MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the end of the pickle that an old file begins with
_BEGINNING_BYTES = 32
_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1


def read_torch_file(path: Path) -> Any:
    """What `torch.save` put into `path`, on the CPU.

    Objects of known libraries are `Husk`s. Raises ModelError for a file that can't be read, is damaged or
    compressed, or that names anything else than tensors and those; nothing of it has run then.
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
            f"{path} is refused: its pickle asks for {names}, and only tensors are read from such a file. "
            "Nothing of it was run. Give a file from a source you trust."
        ) from error
    except ModelError:
        raise
    except Exception as error:  # a damaged pickle or archive can make any of them
        said = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ModelError(
            f"{path} can't be read as a file of torch.save: {said}. Expected a whole one; copy it again, "
            "or give another."
        ) from error


def check_regular(path: Path) -> None:
    """Raise ModelError for a path where no regular file is: a folder, a pipe, a device, nothing."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"{path} can't be read: {reason}. Give a file.") from error
    if not path.is_file():
        kind = "a folder" if path.is_dir() else f"no regular file (mode {found.st_mode:o})"
        raise ModelError(f"{path} can't be read: it is {kind}. Give a file.")


def tensors_of(module: Husk) -> dict[str, Tensor]:
    """The parameters and buffers of a module that was pickled whole, by their dotted names.

    Raises ModelError where the husk, or one within it, is not one of a module.
    """
    tensors: dict[str, Tensor] = {}
    waiting, seen = [("", module)], {id(module)}
    while waiting:
        prefix, husk = waiting.pop()
        own, children = _module_state(husk, prefix)
        tensors |= {prefix + name: t.detach() for name, t in own.items() if isinstance(t, Tensor)}
        for name, child in children.items():
            if isinstance(child, Husk) and id(child) not in seen:
                seen.add(id(child))
                waiting.append((f"{prefix}{name}.", child))
    return tensors


def _module_state(husk: Husk, prefix: str) -> tuple[dict[str, Any], Mapping[str, Any]]:
    state = husk.state if isinstance(husk.state, Mapping) else {}
    parts = [state.get(key) or {} for key in ("_parameters", "_buffers", "_modules")]
    if "_modules" not in state or not all(isinstance(part, Mapping) for part in parts):
        raise ModelError(f"The pickled object {prefix or '(root)'} is not a module of torch.")
    return {**parts[0], **parts[1]}, parts[2]


def _read(path: Path, content: mmap.mmap) -> Any:
    begins = content[:_BEGINNING_BYTES]
    if begins.startswith(_ZIP_BEGINS):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is cut short, the end of its archive is missing")
        return _read_zip(path, content)
    if _MAGIC not in begins:
        raise ValueError(
            f"it begins with {begins[:12]!r}, which is neither a zip nor torch's magic"
        )
    return _read_old(content)


# --- Since torch 1.6: a zip ----------------------------------------------------------------------


@dataclass
class _Archive:
    """The members of a zip as stretches of the file."""

    content: mmap.mmap
    members: Mapping[str, tuple[int, int]]
    prefix: str
    found: dict[str, torch.UntypedStorage] = field(default_factory=dict)

    def data(self, name: str) -> bytes:
        start, size = self.members[self.prefix + name]
        return self.content[start : start + size]

    def find_storage(self, kind: StorageType, key: str, elements: int) -> StoredBytes:
        """The storage under `key`; the same one each time."""
        name = f"{self.prefix}data/{key}"
        if name not in self.members:
            raise ValueError(f"it lacks its member {name[:80]!r}")
        start, size = self.members[name]
        if elements * kind.dtype.itemsize != size:
            raise ValueError(
                f"its member {name[:80]!r} has {size:,} bytes, its pickle says {elements:,} elements of "
                f"{kind.dtype.itemsize}"
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
            f"its numbers are {order[:8]!r}-endian, this machine's are {sys.byteorder}"
        )
    return unpickle(io.BytesIO(opened.data("data.pkl")), opened.find_storage)


def _stretch(info: zipfile.ZipInfo, content: mmap.mmap) -> tuple[int, int]:
    """Where in the file the bytes of a member lie. Raises ValueError for one that isn't merely stored."""
    if info.flag_bits & _ENCRYPTED:
        raise ValueError(f"its member {info.filename[:80]!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ValueError(
            f"its member {info.filename[:80]!r} is compressed (method {info.compress_type}), which "
            "torch.save never does"
        )
    header = content[info.header_offset : info.header_offset + _LOCAL_HEADER_BYTES]
    lengths = struct.unpack("<HH", header[26:30])  # of the name and of what follows it
    start = info.header_offset + _LOCAL_HEADER_BYTES
    name = content[start : start + lengths[0]].decode(errors="replace")
    if not header.startswith(_ZIP_BEGINS) or name != info.orig_filename:
        raise ValueError(f"its member {info.filename[:80]!r} is not where the archive says")
    start += sum(lengths)
    if start + info.file_size > len(content):
        raise ValueError(f"its member {info.filename[:80]!r} is cut short")
    return start, info.file_size


# --- Before torch 1.6: five pickles, then the storages -------------------------------------------


@dataclass
class _Promised:
    """The storages that the pickle names; they follow it."""

    room: int
    storages: dict[str, StoredBytes] = field(default_factory=dict)

    def find_storage(self, kind: StorageType, key: str, elements: int) -> StoredBytes:
        """Room for the storage under `key`, to be filled later."""
        if key not in self.storages:
            size = elements * kind.dtype.itemsize
            if not 0 <= size <= self.room:
                raise ValueError("its storages are larger than the file: it was cut short")
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
            raise ValueError("its storages are cut short")
        stored.storage.copy_(_storage_at(content, content.tell(), size))
        content.seek(size, 1)
    if set(keys) != set(promised.storages):
        raise ValueError("a storage is missing")
    return saved


def _storage_at(content: mmap.mmap, start: int, size: int) -> torch.UntypedStorage:
    """A stretch of the file as a storage; what is written into it stays in memory."""
    if not size:
        return torch.UntypedStorage(0)
    return torch.frombuffer(content, dtype=torch.uint8, count=size, offset=start).untyped_storage()
