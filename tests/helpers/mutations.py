"""What hands, disks and power cuts do to a file: the ways in which tests damage one."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

DEEP = 100_000
BLOCK = 4096
_NESTED = "\ue000"  # stands for lists nested `DEEP` times, which json.dumps can't write
VALUES: tuple[Any, ...] = (
    None,
    True,
    "",
    "x",
    "../../x",
    -1,
    10**30,
    1.5,
    float("nan"),
    [],
    {},
    [[]],
    _NESTED,
)

Change = Callable[[Path], object]


def byte_changes(rng: random.Random, flips: int = 8) -> Iterator[tuple[str, Change]]:
    """Ways to damage any file, by name; `flips` of them flip some bits of one byte, or of many."""
    yield "empty", lambda path: path.write_bytes(b"")
    yield "half", lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    yield "nuls", lambda path: path.write_bytes(bytes(path.stat().st_size))
    yield "nul tail", lambda path: path.write_bytes(path.read_bytes() + bytes(512))
    yield "other", lambda path: path.write_bytes(b"not what was expected\n")
    yield "not utf-8", lambda path: path.write_bytes(b"\xff\xfe\xfd")
    yield "deep", lambda path: path.write_bytes(b"[" * DEEP)
    yield "folder", _into(lambda path: path.mkdir())
    yield "missing", _into(lambda path: None)
    yield "pipe", _into(lambda path: os.mkfifo(path))
    yield "loop", _into(lambda path: path.symlink_to(path))
    yield "zeros", _into(lambda path: path.symlink_to("/dev/zero"))
    yield "hole", _hole(rng.random())
    for number in range(flips):
        times = 1 if number % 2 else 30
        places = [(rng.random(), rng.randrange(1, 256)) for _ in range(times)]
        yield f"flip {number}", _flip(places)


def json_changes(text: str) -> Iterator[tuple[str, str]]:
    """A JSON document with one field dropped or of another value, by what was done."""
    document = json.loads(text)
    for path in _places(document):
        name = "".join(f"[{step!r}]" for step in path)
        yield f"without {name}", _dump(_changed(document, path, drop=True))
        for value in VALUES:
            shown = "deep" if value == _NESTED else repr(value)
            yield f"{name} = {shown}", _dump(_changed(document, path, value=value))


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all fields; of a list's items only to the first."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, key)
            yield from _places(inner, (*path, key))
    elif isinstance(value, list) and value:
        yield (*path, 0)
        yield from _places(value[0], (*path, 0))


def _changed(document: Any, path: tuple[Any, ...], *, value: Any = None, drop: bool = False) -> Any:
    copy = json.loads(json.dumps(document))
    inner = copy
    for step in path[:-1]:
        inner = inner[step]
    if drop:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return copy


def _dump(document: Any) -> str:
    return json.dumps(document).replace(json.dumps(_NESTED), "[" * DEEP + "]" * DEEP)


def _into(make: Change) -> Change:
    def change(path: Path) -> None:
        remove(path)
        make(path)

    return change


def _flip(places: list[tuple[float, int]]) -> Change:
    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        for where, bits in places:
            data[int(where * len(data))] ^= bits
        path.write_bytes(data)

    return change


def _hole(where: float) -> Change:
    """A lost block of the disk."""

    def change(path: Path) -> None:
        data = bytearray(path.read_bytes())
        begin = int(where * len(data)) // BLOCK * BLOCK
        data[begin : begin + BLOCK] = bytes(len(data[begin : begin + BLOCK]))
        path.write_bytes(data)

    return change


def remove(path: Path) -> None:
    """Remove a file, a folder, a link or a pipe."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
